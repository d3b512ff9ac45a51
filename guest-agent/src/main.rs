//! The agent's program. See the library for what it does.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use stillpoint_agent::{
    PORT_NAME,
    coordinator::Coordinator,
    freezer::{self, Freezer, select::Scope},
    grpc,
    guardian::{self, Guardian},
    logging::{self, Sink},
    qga,
    values::{self, Values, ValuesError},
    writers::{
        self,
        attach::Allowed,
        builtin::{
            self,
            config::{Config, QemuGa},
        },
        registry::Registry,
    },
};
use stillpoint_common::KeyValues;
use stillpoint_transport::{AgentLink, SocketPort, VirtioPort, find_virtio_port};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{Level, info, warn};

const USAGE: &str = "\
Usage: stillpoint-agent [OPTION…]
       stillpoint-agent thaw-all      let go of every file system that a dead agent left frozen
       stillpoint-agent values        list what the host tells this guest, and what this guest tells its host
       stillpoint-agent values get KEY | set KEY VALUE | unset KEY
                                      read a value of the host; tell the host a value, or no more

Makes this guest quiet for checkpoints of its host.

  --port PATH     the virtio-serial port; else the one named org.stillpoint.agent.0 is looked for
  --listen PATH   serve on a unix socket instead of a port (for tests; needs --below)
  --qga-listen PATH
                  answer hosts that speak as to qemu-ga on a unix socket instead of a port (for tests; needs --below)
  --writers PATH  socket on which writers register (default /run/stillpoint/writers.sock)
  --config PATH   settings of writers (default /etc/stillpoint/writers.conf)
  --values PATH   folder of values that host and guest tell each other (default /run/stillpoint for those of the
                  host, /var/lib/stillpoint for those of the guest)
  --below PATH    deal only with file systems mounted at or below PATH
  --log WHERE     stderr (default) or kernel
  --verbose       say more
  --version       print the version
";

#[derive(Debug, Default)]
struct Arguments {
    port: Option<PathBuf>,
    listen: Option<PathBuf>,
    qga_listen: Option<PathBuf>,
    writers: Option<PathBuf>,
    config: Option<PathBuf>,
    below: Option<PathBuf>,
    values: Option<PathBuf>,
    kernel_log: bool,
    verbose: bool,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut found = Self::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--port" => found.port = Some(value()?.into()),
                "--listen" => found.listen = Some(value()?.into()),
                "--qga-listen" => found.qga_listen = Some(value()?.into()),
                "--writers" => found.writers = Some(value()?.into()),
                "--config" => found.config = Some(value()?.into()),
                "--below" => found.below = Some(value()?.into()),
                "--values" => found.values = Some(value()?.into()),
                "--log" => {
                    found.kernel_log = match value()?.as_str() {
                        "kernel" => true,
                        "stderr" => false,
                        other => return Err(format!("cannot log to {other}")),
                    }
                }
                "--verbose" => found.verbose = true,
                other => return Err(format!("unknown argument {other}")),
            }
        }
        if (found.listen.is_some() || found.qga_listen.is_some()) && found.below.is_none() {
            return Err("a socket needs --below: whoever reaches it can freeze what lies there".to_owned());
        }
        Ok(found)
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    match words.peek().map(String::as_str) {
        Some(guardian::SUBCOMMAND) => {
            return if guardian::run().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Some("--version") => {
            println!("stillpoint-agent {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some("--help") => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some("thaw-all") => {
            for mount_point in freezer::thaw_all(&Scope::default()) {
                println!("thawed {mount_point}");
            }
            return ExitCode::SUCCESS;
        }
        Some("values") => return values_command(words.skip(1).collect()),
        Some(_) | None => {}
    }
    let arguments = match Arguments::parse(words) {
        Ok(arguments) => arguments,
        Err(wrong) => {
            eprint!("stillpoint-agent: {wrong}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stillpoint-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    // Before there are threads, and before the port is open.
    let guardian = Guardian::start("/proc/self/exe".as_ref())?;
    let sink = if arguments.kernel_log { Sink::Kernel } else { Sink::StandardError };
    logging::start(sink, if arguments.verbose { Level::DEBUG } else { Level::INFO })?;
    for mount_point in freezer::thaw_all(&Scope { below: arguments.below.clone(), exclude: Vec::new() }) {
        warn!(mount_point, "an earlier agent left this frozen: thawed");
    }
    let registry = Registry::default();
    let values = values_in(arguments.values.as_deref());
    let coordinator = Coordinator::new(Freezer::start(guardian)?, registry.clone(), arguments.below.clone(), values);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut link = match &arguments.listen {
            Some(path) => AgentLink::listen(SocketPort::bind(path)?),
            None => AgentLink::listen(open_port(arguments.port.clone()).await?),
        };
        let config = read_config(&arguments);
        serve_writers(&registry, &arguments, &config);
        serve_qga(&coordinator, &arguments, config.qemu_ga)?;
        info!(version = env!("CARGO_PKG_VERSION"), "waiting for the host");
        tokio::select! {
            () = grpc::serve(&mut link, coordinator.clone()) => return Err("the port is lost".into()),
            _ = terminate.recv() => {}
        }
        // Whatever is held is let go, and the host need not wait to find out that nobody is there.
        coordinator.new_host().await;
        link.close().await;
        info!("ended");
        Ok(())
    })
}

fn values_in(folder: Option<&Path>) -> Values {
    let (host, guest) = (values::HOST_FOLDER.as_ref(), values::GUEST_FOLDER.as_ref());
    Values::new(folder.unwrap_or(host), folder.unwrap_or(guest))
}

/// `stillpoint-agent values …`, typed in the guest. It works with the files alone; the agent need not run.
fn values_command(words: Vec<String>) -> ExitCode {
    let (folder, words) = match words.as_slice() {
        [option, folder, rest @ ..] if option == "--values" => (Some(PathBuf::from(folder)), rest),
        words => (None, words),
    };
    let values = values_in(folder.as_deref());
    let done = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["list"] => list_values(&values),
        ["get", key] => values.hosts().map(|hosts| match hosts.get(key) {
            Some(value) => {
                println!("{value}");
                ExitCode::SUCCESS
            }
            None => ExitCode::FAILURE,
        }),
        ["set", key, value] => values.tell(key, Some(value)).map(|()| ExitCode::SUCCESS),
        ["unset", key] => values.tell(key, None).map(|()| ExitCode::SUCCESS),
        _ => {
            eprint!("stillpoint-agent: values: what is meant?\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("stillpoint-agent: {error}");
        ExitCode::FAILURE
    })
}

fn list_values(values: &Values) -> Result<ExitCode, ValuesError> {
    let of = |who: &str, told: &KeyValues| told.iter().for_each(|(key, value)| println!("{who} {key}={value}"));
    of("host", &values.hosts()?);
    of("guest", &values.guests()?);
    Ok(ExitCode::SUCCESS)
}

/// Lets writers register, and starts those that the agent brings along. Without them file systems can be made quiet all
/// the same: what is wrong is told, and no reason to end.
fn serve_writers(registry: &Registry, arguments: &Arguments, config: &Config) {
    let socket = arguments.writers.as_deref().unwrap_or(writers::SOCKET.as_ref());
    let allowed = Allowed { users: config.users.clone() };
    match writers::attach::bind(socket) {
        Ok(listener) => drop(tokio::spawn(writers::attach::serve(listener, registry.clone(), allowed))),
        Err(error) => warn!(%error, socket = %socket.display(), "writers of other processes cannot register"),
    }
    builtin::start(registry, config, socket.parent().unwrap_or(socket));
}

fn read_config(arguments: &Arguments) -> Config {
    let path = arguments.config.as_deref().unwrap_or(builtin::CONFIG.as_ref());
    match std::fs::read_to_string(path).map(|text| Config::parse(&text)) {
        Ok(Ok(config)) => config,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Config::default(),
        Ok(Err(error)) => {
            warn!(%error, file = %path.display(), "no built-in writers: the settings are wrong");
            Config::nothing()
        }
        Err(error) => {
            warn!(%error, file = %path.display(), "no built-in writers: the settings cannot be read");
            Config::nothing()
        }
    }
}

/// Answers hosts that speak as to qemu-ga, beside our own.
fn serve_qga(coordinator: &Coordinator, arguments: &Arguments, settings: QemuGa) -> std::io::Result<()> {
    let coordinator = coordinator.clone();
    match &arguments.qga_listen {
        Some(path) => {
            let port = SocketPort::bind(path)?;
            drop(tokio::spawn(async move { qga::serve(&port, coordinator, settings.lease).await }));
        }
        // An agent under test has none of this machine's ports.
        None if arguments.listen.is_some() => {}
        None => drop(tokio::spawn(qga::keep(coordinator, settings))),
    }
    Ok(())
}

/// Opens the port, waiting for it: it may appear after us, and a predecessor that is stuck in the kernel keeps it.
async fn open_port(given: Option<PathBuf>) -> std::io::Result<VirtioPort> {
    const PAUSE: Duration = Duration::from_millis(500);
    let mut told = false;
    loop {
        let path = given.clone().map_or_else(|| find_virtio_port(PORT_NAME), Ok);
        match path.and_then(|path| VirtioPort::open(&path)) {
            Ok(port) => return Ok(port),
            Err(error) => {
                if !told {
                    warn!(%error, "no port yet: waiting for it");
                    told = true;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
