//! Where this machine gets Debian's packages from, and the same mirror's backports as a source for one command.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::problem::{Outcome, Problem};

const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const LIST: &str = "/etc/apt/sources.list";

/// A package source that is given to single commands and never written to the machine's configuration.
pub(crate) struct Source {
    /// What makes apt use it.
    pub(crate) options: Vec<OsString>,
    /// Its name for `apt-get -t`.
    pub(crate) suite: String,
}

/// The backports of this machine's own mirror, as a list of sources in `folder`.
pub(crate) fn backports(folder: &Path) -> Outcome<Source> {
    let release = std::fs::read_to_string("/etc/os-release").map_err(Problem::file(Path::new("/etc/os-release")))?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename =
        codename.ok_or_else(|| Problem::new("/etc/os-release names no release of Debian"))?.trim_matches('"');
    let mirror = files().iter().find_map(|text| mirror_in(text, codename));
    let mirror = mirror.ok_or_else(|| Problem::new(format!("apt's sources name no mirror for {codename}")))?;
    let suite = format!("{codename}-backports");
    let trust = if Path::new(KEYS).exists() { format!("[signed-by={KEYS}] ") } else { String::new() };
    let own = std::fs::read_to_string(LIST).unwrap_or_default(); // our list stands in for this file, so it begins with it
    let path = folder.join("backports.list");
    std::fs::create_dir_all(folder).map_err(Problem::file(folder))?;
    std::fs::write(&path, format!("{own}\ndeb {trust}{mirror} {suite} main\n")).map_err(Problem::file(&path))?;
    Ok(Source { options: vec!["-o".into(), format!("Dir::Etc::sourcelist={}", path.display()).into()], suite })
}

fn files() -> Vec<String> {
    let parts = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let paths = std::iter::once(PathBuf::from(LIST)).chain(parts);
    paths.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

/// The address of the source that has the release itself, in either format of apt's sources.
fn mirror_in(text: &str, codename: &str) -> Option<String> {
    one_line_format(text, codename).or_else(|| text.split("\n\n").find_map(|stanza| stanza_format(stanza, codename)))
}

fn one_line_format(text: &str, codename: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).filter_map(|line| line.strip_prefix("deb "));
    lines.map(without_options).find_map(|line| {
        let mut words = line.split_whitespace();
        let (address, suite) = (words.next()?, words.next()?);
        (suite == codename && words.any(|component| component == "main")).then(|| address.to_owned())
    })
}

fn without_options(line: &str) -> &str {
    let line = line.trim_start();
    if line.starts_with('[') { line.split_once(']').map_or("", |(_, rest)| rest) } else { line }
}

fn stanza_format(stanza: &str, codename: &str) -> Option<String> {
    let field = |name: &str| {
        let mut lines = stanza.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let has = |name, word: &str| field(name).is_some_and(|value| value.split_whitespace().any(|each| each == word));
    let off = field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
    let fits = !off && has("Types", "deb") && has("Suites", codename) && has("Components", "main");
    fits.then(|| field("URIs")?.split_whitespace().next().map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::mirror_in;

    #[test]
    fn the_mirror_is_found_in_both_formats_and_other_sources_are_passed_by() {
        let lines = "# deb http://no bookworm main\ndeb http://sec bookworm-security main\n\
                     deb [arch=amd64 signed-by=/k] http://here/debian bookworm main contrib\n";
        assert_eq!(mirror_in(lines, "bookworm").as_deref(), Some("http://here/debian"));
        let stanzas = "Types: deb\nURIs: http://sec\nSuites: bookworm-security\nComponents: main\n\n\
                       Types: deb\n# a comment: yes\nURIs: http://here/debian\nSuites: bookworm bookworm-updates\nComponents: main\n";
        assert_eq!(mirror_in(stanzas, "bookworm").as_deref(), Some("http://here/debian"));
        assert_eq!(mirror_in(stanzas, "trixie"), None);
        assert_eq!(mirror_in("deb http://other nodistro main\n", "bookworm"), None);
        let off = "Enabled: no\nTypes: deb\nURIs: http://x\nSuites: bookworm\nComponents: main\n";
        assert_eq!(mirror_in(off, "bookworm"), None);
    }
}
