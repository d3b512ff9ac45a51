use proptest::prelude::*;

use super::*;
use crate::freezer::mount_table::parse;

const TABLE: &str = "\
1 0 254:1 / / rw - ext4 /dev/vda1 rw
2 1 0:21 / /proc rw - proc proc rw
3 1 0:22 / /run rw - tmpfs tmpfs rw
4 1 254:2 / /var rw - xfs /dev/vda2 rw
5 4 7:0 / /var/images/a rw - ext4 /dev/loop0 rw
6 1 254:2 /lib /mnt/bind rw - xfs /dev/vda2 rw
7 1 0:40 / /nfs rw - nfs4 server:/x rw
8 1 11:0 / /cdrom ro - iso9660 /dev/sr0 ro
9 1 0:41 /@ /home rw - btrfs /dev/vdb rw
10 1 0:42 / /merged rw - overlay overlay rw
11 1 0:41 /@snap /snap rw - btrfs /dev/vdb rw
12 1 254:3 / /boot/efi rw - vfat /dev/vda3 rw
13 1 0:43 / /exotic rw - somefs none rw
14 1 0:44 / /sshfs rw - fuse.sshfs u@h:/ rw
";

fn device(major: u32, minor: u32) -> Device {
    Device { major, minor }
}

/// A file on /var carries the loop device.
fn carriers(of: Device) -> Vec<Device> {
    if of == device(7, 0) { vec![device(254, 2)] } else { Vec::new() }
}

fn points(plan: &Plan) -> Vec<String> {
    plan.targets.iter().map(|target| target.mount_point().display().to_string()).collect()
}

#[test]
fn one_mount_a_device_is_frozen_stacked_ones_first_and_the_root_last() {
    let plan = plan(&parse(TABLE), &Scope::default(), carriers);
    assert_eq!(points(&plan), ["/var/images/a", "/boot/efi", "/var", "/home", "/"]);
    assert_eq!(plan.targets[2].mounts.len(), 2);
}

#[test]
fn what_is_left_out_has_a_reason() {
    let plan = plan(&parse(TABLE), &Scope::default(), carriers);
    let reasons: BTreeMap<_, _> =
        plan.left_out.iter().map(|fs| (fs.mount_point.as_str(), fs.detail.as_str())).collect();
    let wanted = [
        ("/run", "lives in memory"),
        ("/nfs", "lives on another machine"),
        ("/cdrom", "read-only"),
        ("/merged", "lies on other file systems"),
        ("/exotic", "has no block device"),
        ("/sshfs", "served by a process"),
    ];
    assert_eq!(reasons, BTreeMap::from(wanted));
    assert_eq!(plan.outcomes().len(), plan.targets.len() + wanted.len());
}

#[test]
fn excluded_mount_points_and_those_out_of_scope_are_not_frozen() {
    let scope = Scope { below: Some("/var".into()), exclude: vec!["/var/images/a".into()] };
    let plan = plan(&parse(TABLE), &scope, carriers);
    assert_eq!(points(&plan), ["/var"]);
    assert_eq!(plan.left_out.len(), 1);
    assert_eq!(plan.left_out[0].detail, "excluded by a setting");
}

#[test]
fn a_root_that_lies_on_a_loop_device_goes_before_its_carrier() {
    let table = "1 0 7:0 / / rw - ext4 /dev/loop0 rw\n2 1 254:1 / /media rw - ext4 /dev/vda1 rw\n";
    let plan =
        plan(&parse(table), &Scope::default(), |of| if of == device(7, 0) { vec![device(254, 1)] } else { vec![] });
    assert_eq!(points(&plan), ["/", "/media"]);
}

#[test]
fn carriers_that_name_each_other_do_not_hang() {
    let table = "1 0 7:0 / /a rw - ext4 /dev/loop0 rw\n2 1 7:1 / /b rw - ext4 /dev/loop1 rw\n";
    let plan = plan(&parse(table), &Scope::default(), |_| vec![device(7, 0), device(7, 1)]);
    assert_eq!(plan.targets.len(), 2);
}

proptest! {
    /// However the loop devices are stacked and the table is sorted, nothing is frozen after what carries it.
    #[test]
    fn nothing_is_frozen_after_its_carrier(seeds in proptest::collection::vec(any::<u32>(), 2..8)) {
        // Device n lies on a file of some device below n.
        let below: Vec<Option<u32>> = (0_u32..).zip(&seeds).map(|(n, seed)| (n > 0).then(|| seed % n.max(1))).collect();
        let mut lines: Vec<_> =
            (0..seeds.len()).map(|n| format!("{n} 0 7:{n} / /m{} rw - ext4 /dev/loop{n} rw", seeds[n])).collect();
        lines.sort_by_key(|line| line.len() * 7 % 5);
        let plan = plan(&parse(&lines.join("\n")), &Scope::default(), |of| {
            below[of.minor as usize].map(|minor| device(7, minor)).into_iter().collect()
        });
        let order: Vec<u32> = plan.targets.iter().map(|target| target.device.minor).collect();
        prop_assert_eq!(order.len(), seeds.len());
        for (at, minor) in order.iter().enumerate() {
            if let Some(carrier) = below[*minor as usize] {
                prop_assert!(order[at..].contains(&carrier), "{order:?}");
            }
        }
    }
}
