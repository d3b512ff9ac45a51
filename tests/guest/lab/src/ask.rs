//! Questions to a running workload: one line in, one line out, over a unix socket in `/run/lab`.
//!
//! The socket lies in memory, so a workload answers also while its file system is frozen.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;

use crate::Outcome;

/// Answers questions about this process under `name` until it ends. A workload of the same name that was
/// there before is no longer reachable: the last one started is the one that is asked.
pub(crate) fn answer(name: &str, reply: impl Fn(&str) -> String + Send + 'static) -> Result<(), String> {
    let path = socket(name);
    std::fs::create_dir_all("/run/lab").map_err(|e| format!("/run/lab: {e}"))?;
    drop(std::fs::remove_file(&path));
    let listener = UnixListener::bind(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            drop(answer_one(stream, &reply)); // who asked may be gone; the next one is answered all the same
        }
    });
    Ok(())
}

fn answer_one(stream: UnixStream, reply: &impl Fn(&str) -> String) -> std::io::Result<()> {
    let mut question = String::new();
    BufReader::new(&stream).read_line(&mut question)?;
    (&stream).write_all(format!("{}\n", reply(question.trim_end())).as_bytes())
}

/// Asks the workload `name`, and waits a moment for one that is just being started.
pub(crate) fn ask(name: &str, question: &str) -> Outcome {
    let path = socket(name);
    let mut tries = 0;
    let stream = loop {
        match UnixStream::connect(&path) {
            Ok(stream) => break stream,
            Err(e) if tries == 100 => return Err(format!("no workload `{name}` is running: {e}")),
            Err(_) => thread::sleep(std::time::Duration::from_millis(50)),
        }
        tries += 1;
    };
    (&stream).write_all(format!("{question}\n").as_bytes()).map_err(|e| e.to_string())?;
    let mut reply = String::new();
    BufReader::new(&stream).read_line(&mut reply).map_err(|e| e.to_string())?;
    match reply.trim_end() {
        "" => Err(format!("`{name}` ended without an answer")),
        reply => reply.strip_prefix("error: ").map_or(Ok(reply.to_owned()), |why| Err(why.to_owned())),
    }
}

fn socket(name: &str) -> PathBuf {
    PathBuf::from(format!("/run/lab/{name}.sock"))
}
