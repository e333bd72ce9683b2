//! Running `touchline`, with a deadline on everything.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader, Lines},
    process::{Child, Command},
    time::timeout,
};

/// Generous, since the machine may be busy; nothing waits for it to pass.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What a command that ended has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// The one line of JSON that was printed.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// That it worked.
    pub(crate) fn worked(&self) {
        assert_eq!(self.code, Some(0), "{self:?}");
    }

    /// The one line of an error.
    pub(crate) fn error(&self) -> &str {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.err.trim_end().lines().count(), 1, "{self:?}");
        self.err.trim_end()
    }
}

/// Runs a command to its end.
pub(crate) async fn touchline(arguments: &[&str]) -> Said {
    let output = timeout(DEADLINE, command(arguments).output());
    let output = output.await.expect("it ends in time").unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_touchline"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// A command that runs on; killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<Box<dyn AsyncRead + Send + Unpin>>>,
}

impl Running {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        Self::reading(child, Box::new(out))
    }

    /// The same, but its lines are those of standard error.
    fn start_noting(arguments: &[&str]) -> Self {
        let mut command = command(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let err = child.stderr.take().unwrap();
        Self::reading(child, Box::new(err))
    }

    fn reading(child: Child, from: Box<dyn AsyncRead + Send + Unpin>) -> Self {
        let lines = BufReader::new(from).lines();
        Self { child, lines }
    }

    /// The next line.
    pub(crate) async fn line(&mut self) -> String {
        let line = timeout(DEADLINE, self.lines.next_line());
        line.await
            .expect("a line comes in time")
            .unwrap()
            .expect("it has not ended")
    }

    /// The next line, as JSON.
    pub(crate) async fn json(&mut self) -> Value {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// The next JSON line that `wanted` accepts.
    pub(crate) async fn json_where(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Vec::new();
        let found = timeout(DEADLINE, async {
            loop {
                let line = self.json().await;
                if wanted(&line) {
                    return line;
                }
                seen.push(line);
            }
        });
        found.await.expect("the line comes in time")
    }

    /// Sends a signal, such as INT, and waits for the end.
    pub(crate) async fn signal(mut self, signal: &str) -> Option<i32> {
        let pid = self.child.id().unwrap().to_string();
        let mut sent = Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .spawn()
            .unwrap();
        assert!(sent.wait().await.unwrap().success());
        let ended = timeout(DEADLINE, self.child.wait()).await;
        ended.expect("it ends in time").unwrap().code()
    }
}

/// A local stack of its own, on free ports.
pub(crate) struct Local {
    pub(crate) running: Running,
    pub(crate) page: String,
    pub(crate) server: String,
    pub(crate) gateway: String,
    pub(crate) dynamodb: String,
    /// Of the server, and of the push adapter.
    pub(crate) metrics: [String; 2],
}

impl Local {
    /// In memory, or in a folder, on free ports.
    pub(crate) async fn start(folder: Option<&Path>, more: &[&str]) -> Self {
        Self::start_at(folder, ["0", "0"], more).await
    }

    /// With the ports of the fans' gateway and of the server.
    pub(crate) async fn start_at(
        folder: Option<&Path>,
        [fans_port, grpc_port]: [&str; 2],
        more: &[&str],
    ) -> Self {
        let mut arguments = vec!["local", "--json"];
        arguments.extend(["--fans-port", fans_port, "--grpc-port", grpc_port]);
        for flag in [
            "--page-port",
            "--management-port",
            "--push-grpc-port",
            "--metrics-port",
            "--push-metrics-port",
            "--dynamodb-port",
        ] {
            arguments.extend([flag, "0"]);
        }
        match folder {
            Some(folder) => arguments.extend(["--data-dir", folder.to_str().unwrap()]),
            None => arguments.push("--memory"),
        }
        arguments.extend(more);
        let mut running = Running::start(&arguments);
        let ready = running.json().await;
        assert_eq!(ready["type"], "ready", "{ready}");
        let of = |name: &str| ready[name].as_str().unwrap().to_owned();
        Self {
            page: of("page"),
            server: of("server"),
            gateway: of("gateway"),
            dynamodb: of("dynamodb"),
            metrics: [of("metrics"), of("push_metrics")],
            running,
        }
    }

    /// The ports of the fans' gateway and of the server.
    pub(crate) fn ports(&self) -> [String; 2] {
        [&self.gateway, &self.server].map(|url| {
            let port = url.trim_end_matches("/dev").rsplit(':').next();
            port.unwrap().to_owned()
        })
    }

    /// Runs a command of this stack's server to its end.
    pub(crate) async fn ask(&self, arguments: &[&str]) -> Said {
        touchline(&[arguments, &["--server", &self.server]].concat()).await
    }

    /// Starts a command of this stack's server that runs on.
    pub(crate) fn follow(&self, arguments: &[&str]) -> Running {
        Running::start(&[arguments, &["--server", &self.server]].concat())
    }

    /// A fan of this stack.
    pub(crate) fn fan(&self, arguments: &[&str]) -> Running {
        Running::start(&[&["fan"], arguments, &["--json", "--gateway", &self.gateway]].concat())
    }

    /// A fan of this stack whose lines are what it says of its connection.
    pub(crate) fn noting_fan(&self, arguments: &[&str]) -> Running {
        Running::start_noting(&[&["fan"], arguments, &["--gateway", &self.gateway]].concat())
    }
}
