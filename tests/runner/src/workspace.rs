//! Where things are: the sources this program was built from, and cargo's target folder.

use std::path::PathBuf;
use std::process::Command;

use crate::problem::{Outcome, Problem};
use crate::shell;

/// The paths every step works with. All that is made lies below `target`.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The folder with the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target folder, wherever the caller put it.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo, which knows about configuration files and the environment.
    pub(crate) fn find() -> Outcome<Self> {
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let root = root.canonicalize().map_err(Problem::file(&root))?;
        let mut ask = cargo();
        let metadata = shell::read(ask.current_dir(&root).args(["metadata", "--no-deps", "--format-version=1"]))?;
        let target = text_field(&metadata, "target_directory");
        let target = target.ok_or_else(|| Problem::new("cargo metadata does not name a target folder"))?;
        Ok(Self { root, target: target.into() })
    }

    /// Cargo, started at the root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root);
        command
    }

    /// The folder of everything the test guest is made of (not `guest`, which is where cargo builds that profile).
    pub(crate) fn guest(&self) -> PathBuf {
        self.target.join("guest-image")
    }
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The value of a text field that occurs once in a JSON text. Enough for a path, and saves a JSON parser;
/// a path with a quote or a backslash in it is refused rather than misread.
fn text_field<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = json.split_once(&format!("\"{name}\":\""))?;
    rest.split_once('"').map(|(value, _)| value).filter(|value| !value.contains('\\'))
}

#[cfg(test)]
mod tests {
    use super::text_field;

    #[test]
    fn a_text_field_is_found_and_an_escaped_one_is_refused() {
        assert_eq!(text_field(r#"{"a":1,"target_directory":"/t x/y","b":2}"#, "target_directory"), Some("/t x/y"));
        assert_eq!(text_field(r#"{"target_directory":"/t\"x"}"#, "target_directory"), None);
        assert_eq!(text_field("{}", "target_directory"), None);
    }
}
