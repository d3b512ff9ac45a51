//! Values that are typed as one word: sizes, times, `key=value` lists.

use std::{collections::BTreeMap, path::Path, time::Duration};

use jiff::Timestamp;
use stillpoint_common::{AcceleratorChoice, DiskFormat, Drive, VmId};

use crate::view::{Disk, Medium, Nic, PassThroughDisk, TapNetwork, UserNetwork};

/// The name of a VM, also as the resource name `vms/{vm}`.
pub(crate) fn vm(text: &str) -> Result<VmId, String> {
    let name = text.strip_prefix("vms/").unwrap_or(text);
    name.parse().map_err(|problem| format!("the name of a VM {problem}"))
}

/// A text that is there: an empty one is a script's mistake more often than what was meant.
pub(crate) fn given(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("must not be empty; leave it out for the default".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// `512M`, `2G`, `1T`, or MiB: in MiB.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: write 512M, 2G or a number of MiB");
    let upper = text.to_ascii_uppercase();
    let upper = upper.trim_end_matches("IB").trim_end_matches('B');
    let (number, factor) = match upper.as_bytes().last() {
        Some(b'M') => (&upper[..upper.len() - 1], 1),
        Some(b'G') => (&upper[..upper.len() - 1], 1024),
        Some(b'T') => (&upper[..upper.len() - 1], 1024 * 1024),
        Some(_) | None => (upper, 1),
    };
    let number: u64 = number.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(factor).ok_or_else(wrong)
}

/// `90s`, `5m`, `1h`, or seconds.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: write 90s, 5m or 1h");
    let (number, factor) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        Some(_) | None => (text, 1),
    };
    let number: u64 = number.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(factor).map(Duration::from_secs).ok_or_else(wrong)
}

/// `12h`, `7d`, `2w`, as a filter has it.
pub(crate) fn age(text: &str) -> Result<String, String> {
    let known = stillpoint_proto::convert::request::filter::age(text);
    known.map(|_| text.to_owned()).ok_or_else(|| format!("{text:?} is no age: write 90m, 12h, 7d or 2w"))
}

/// `12h`, `7d`, `2w`, as a span of time.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let known = stillpoint_proto::convert::request::filter::age(text);
    known.ok_or_else(|| format!("{text:?} is no age: write 90m, 12h, 7d or 2w"))
}

/// A point in time, or so long from now.
pub(crate) fn until(text: &str) -> Result<Timestamp, String> {
    let from_now = stillpoint_proto::convert::request::filter::age(text);
    let from_now = from_now.and_then(|age| Timestamp::now().checked_add(age).ok());
    let wrong = || format!("{text:?} is no time: write 12h, 7d, 2w, or 2026-12-24T18:00:00Z");
    from_now.or_else(|| text.parse().ok()).ok_or_else(wrong)
}

/// `auto`, `kvm`, `tcg`.
pub(crate) fn accelerator(text: &str) -> Result<AcceleratorChoice, String> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(AcceleratorChoice::Auto),
        "kvm" => Ok(AcceleratorChoice::Kvm),
        "tcg" => Ok(AcceleratorChoice::Tcg),
        _ => Err("write auto, kvm or tcg".to_owned()),
    }
}

/// `raw`, `qcow2`, `vhdx`, `vpc`.
pub(crate) fn format(text: &str) -> Result<DiskFormat, String> {
    match text.to_ascii_lowercase().as_str() {
        "raw" => Ok(DiskFormat::Raw),
        "qcow2" => Ok(DiskFormat::Qcow2),
        "vhdx" => Ok(DiskFormat::Vhdx),
        "vpc" | "vhd" => Ok(DiskFormat::Vpc),
        _ => Err(format!("{text:?} is no format: write raw, qcow2, vhdx or vpc")),
    }
}

/// `name=system,path=/vm/web.qcow2,format=qcow2`
pub(crate) fn disk(text: &str) -> Result<Disk, String> {
    let mut pairs = Pairs::read(text)?;
    let disk = Disk {
        name: pairs.take("name")?,
        path: absolute(Path::new(&pairs.take("path")?))?,
        format: format(&pairs.take("format").map_err(|missing| format!("{missing}; it is not probed"))?)?,
    };
    pairs.end("name, path and format").map(|()| disk)
}

/// `name=tape,device=/dev/sdb[,read-only]`
pub(crate) fn pass_through(text: &str) -> Result<PassThroughDisk, String> {
    let mut pairs = Pairs::read(text)?;
    let read_only = match pairs.0.remove("read-only").as_deref() {
        None | Some("no" | "false") => false,
        Some("" | "yes" | "true") => true,
        Some(other) => return Err(format!("read-only is yes or no, not {other:?}")),
    };
    let device = absolute(Path::new(&pairs.take("device")?))?;
    let disk = PassThroughDisk { name: pairs.take("name")?, device, read_only };
    pairs.end("name, device and read-only").map(|()| disk)
}

/// `name=cd,path=/iso/debian.iso`; `name=cd`; `name=tools,path=/vm/tools.qcow2,format=qcow2,drive=disk`
///
/// What is in a CD-ROM drive is an ISO file, which has no format of its own, unless something else is said.
pub(crate) fn medium(text: &str) -> Result<Medium, String> {
    let mut pairs = Pairs::read(text)?;
    let drive = match pairs.0.remove("drive").as_deref() {
        None | Some("cdrom") => Drive::Cdrom,
        Some("disk") => Drive::Disk,
        Some(other) => return Err(format!("drive is cdrom or disk, not {other:?}")),
    };
    let name = pairs.take("name")?;
    let path = pairs.0.remove("path").map(|path| absolute(Path::new(&path))).transpose()?.unwrap_or_default();
    let format = match (pairs.0.remove("format"), drive) {
        (Some(declared), _) => Some(format(&declared)?),
        (None, Drive::Cdrom) => (!path.is_empty()).then_some(DiskFormat::Raw),
        (None, Drive::Disk) => return Err("format= is missing; it is not probed".to_owned()),
    };
    pairs.end("name, path, format and drive").map(|()| Medium { name, drive, path, format })
}

/// `user`, `tap=tap0`, each with `,mac=…` if wanted
pub(crate) fn nic(text: &str) -> Result<Nic, String> {
    let mut pairs = Pairs::read(text)?;
    let user = pairs.0.remove("user").map(|_| UserNetwork {});
    let tap = pairs.0.remove("tap").map(|interface| TapNetwork { interface });
    if user.is_some() == tap.is_some() {
        return Err("write user or tap=NAME".to_owned());
    }
    let mac = pairs.0.remove("mac").unwrap_or_default();
    pairs.end("user, tap and mac").map(|()| Nic { user, tap, mac })
}

/// A path as the service, whose working folder is another, can use it.
pub(crate) fn absolute(path: &Path) -> Result<String, String> {
    let path = std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?;
    path.into_os_string().into_string().map_err(|path| format!("{} is not UTF-8", path.display()))
}

/// `KEY=VALUE`; the value may have `=` in it.
pub(crate) fn value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must look like KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A list of `key=value`, where a comma in a value is written twice.
struct Pairs(BTreeMap<String, String>);

impl Pairs {
    fn read(text: &str) -> Result<Self, String> {
        let mut pairs = BTreeMap::new();
        for term in text.replace(",,", "\0").split(',') {
            let (key, value) = term.split_once('=').unwrap_or((term, ""));
            let (key, value) = (key.trim().to_owned(), value.replace('\0', ","));
            if pairs.insert(key.clone(), value).is_some() {
                return Err(format!("{key} is given twice"));
            }
        }
        Ok(Self(pairs))
    }

    fn take(&mut self, key: &str) -> Result<String, String> {
        self.0.remove(key).filter(|value| !value.is_empty()).ok_or_else(|| format!("{key}= is missing"))
    }

    fn end(&self, known: &str) -> Result<(), String> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => Err(format!("{key:?} is not known; there are {known}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_with_their_units() {
        assert_eq!(["512", "512M", "2g", "1T", "2GiB"].map(memory), [512, 512, 2048, 1_048_576, 2048].map(Ok));
        assert!(["", "M", "2 apples", "-1", "99999999999999T"].iter().all(|text| memory(text).is_err()));
        assert_eq!(["90", "90s", "5m", "1h"].map(time), [90, 90, 300, 3600].map(|s| Ok(Duration::from_secs(s))));
        assert!(["", "5 days", "é"].iter().all(|text| time(text).is_err()));
    }

    #[test]
    fn a_time_to_come_is_a_date_or_so_long_from_now() {
        assert_eq!(until("2026-12-24T18:00:00Z").unwrap().to_string(), "2026-12-24T18:00:00Z");
        let in_a_week = until("7d").unwrap().duration_since(Timestamp::now());
        assert!((in_a_week.as_hours() - 168).abs() <= 1, "{in_a_week}");
        assert!(["", "7", "tomorrow", "99999999999999w"].iter().all(|text| until(text).is_err()));
        assert!(age("2w").is_ok() && age("2").is_err());
    }

    #[test]
    fn a_disk_is_read_from_its_pairs() {
        let disk = disk("name=data,path=/vm/a,,b.vhdx,format=VHDX").unwrap();
        assert_eq!((disk.name.as_str(), disk.path.as_str(), disk.format), ("data", "/vm/a,b.vhdx", DiskFormat::Vhdx));
        for (text, problem) in [
            ("name=data,path=/a", "format= is missing"),
            ("name=data,path=/a,format=vmdk", "no format"),
            ("name=data,path=/a,format=raw,cache=none", "\"cache\" is not known"),
            ("name=a,name=b,path=/a,format=raw", "name is given twice"),
            ("path=,name=a,format=raw", "path= is missing"),
        ] {
            assert!(super::disk(text).unwrap_err().contains(problem), "{text}");
        }
    }

    #[test]
    fn a_network_card_is_of_the_user_or_a_tap() {
        assert_eq!(nic("user").unwrap().user, Some(UserNetwork {}));
        let tap = nic("tap=tap0,mac=52:54:00:12:34:56").unwrap();
        assert_eq!((tap.tap.unwrap().interface.as_str(), tap.mac.as_str()), ("tap0", "52:54:00:12:34:56"));
        assert!(["", "bridge=br0", "user,tap=tap0"].iter().all(|text| nic(text).is_err()));
    }

    #[test]
    fn a_medium_is_an_iso_file_in_a_drive_unless_it_is_said_otherwise() {
        let cd = medium("name=cd,path=/iso/a.iso").unwrap();
        assert_eq!((cd.drive, cd.path.as_str(), cd.format), (Drive::Cdrom, "/iso/a.iso", Some(DiskFormat::Raw)));
        let empty = medium("name=cd").unwrap();
        assert_eq!((empty.drive, empty.path.as_str(), empty.format), (Drive::Cdrom, "", None));
        let disk = medium("name=t,path=/t,format=qcow2,drive=disk").unwrap();
        assert_eq!((disk.drive, disk.format), (Drive::Disk, Some(DiskFormat::Qcow2)));
        assert!(["path=/a", "name=t,path=/t,drive=disk", "name=t,drive=tape"].iter().all(|text| medium(text).is_err()));
    }

    #[test]
    fn a_device_is_writable_unless_it_is_said_otherwise() {
        assert!(!pass_through("name=tape,device=/dev/sdb").unwrap().read_only);
        assert!(pass_through("name=tape,device=/dev/sdb,read-only").unwrap().read_only);
        assert!(pass_through("name=tape,device=/dev/sdb,read-only=perhaps").is_err());
    }
}
