//! A value that was never saved: it lives in this process and nowhere else.

use std::sync::Mutex;
use std::thread;

use crate::{Outcome, ask};

/// Keeps `text` in memory. Asked `get` it shows the value, told `set TEXT` it takes another one.
pub(crate) fn keep(name: &str, text: &str) -> Outcome {
    let value = Mutex::new(text.to_owned()); // read and replaced by one question at a time
    ask::answer(name, move |question| {
        let Ok(mut value) = value.lock() else { return "error: an earlier question failed".into() };
        match question.split_once(' ') {
            Some(("set", text)) => text.clone_into(&mut value),
            _ if question == "get" => {}
            _ => return format!("error: `{question}`? ask: get | set TEXT"),
        }
        value.clone()
    })?;
    loop {
        thread::park();
    }
}
