//! What can go wrong, as the line that a person reads: what failed, and what to do next. Where the
//! cause matters it is part of the line; nobody reads Rust's debug output.

use std::{error::Error as StdError, io, path::PathBuf};

/// Any failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the server.
    #[error("{}", server_text(.server, .source))]
    Server {
        /// Its address.
        server: String,
        /// What it answered.
        source: touchline_client::Error,
    },
    /// A flag that says what calls present cannot be used.
    #[error(transparent)]
    Flag(#[from] touchline_client::InvalidFlag),
    /// The fans' WebSocket front cannot be reached.
    #[error(
        "cannot connect to the gateway at {gateway}: {reason}; is `touchline local` running? \
         --gateway names another"
    )]
    Gateway {
        /// Its address.
        gateway: String,
        /// Why.
        reason: String,
    },
    /// The gateway does not accept what the fan says of itself.
    #[error("the gateway refuses: {0}")]
    Refused(String),
    /// The tables.
    #[error("{}", store_text(.0))]
    Store(#[from] touchline_store::Error),
    /// A port that somebody else has.
    #[error(
        "port {port} is taken: {what} would listen there; stop what has it, or choose another \
         with {flag} PORT (0: any free one)"
    )]
    PortTaken {
        /// The port.
        port: u16,
        /// What it is for us.
        what: &'static str,
        /// The flag that moves it.
        flag: &'static str,
    },
    /// A port that cannot be listened on for another reason.
    #[error("cannot listen on port {port} for {what} ({flag}): {source}")]
    Port {
        /// The port.
        port: u16,
        /// What it is for us.
        what: &'static str,
        /// The flag that moves it.
        flag: &'static str,
        /// What the operating system says.
        source: io::Error,
    },
    /// Two flags name the same port.
    #[error("port {port} is given twice, by {first} and by {second}: each needs its own")]
    PortTwice {
        /// The port.
        port: u16,
        /// One flag.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A part of the stack does not start or end as it should.
    #[error("{what}: {}", causes(.source.as_ref()))]
    Part {
        /// Which part, and what it was doing.
        what: &'static str,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A part of the stack ended although nobody asked it to.
    #[error("{part} ended by itself; {}", how_it_ended(.ending.as_deref()))]
    PartEnded {
        /// Which part.
        part: &'static str,
        /// What went wrong when everything was ended: why, if the part says so itself.
        ending: Option<Box<Error>>,
    },
    /// A file or folder.
    #[error("{}: {reason}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A process that did not say what it is doing, or does not do it; why.
    #[error("{0}")]
    Unasked(String),
    /// A flag's value.
    #[error("{flag} {value}: {accepted}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What would be accepted.
        accepted: &'static str,
    },
    /// A cache that is not warmed, or not wholly: why, and what to do.
    #[error("{0}")]
    Warm(String),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// Ctrl-C before there was an answer.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Whether the reader of our output has gone, as `head` does: not worth a word.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

fn how_it_ended(error: Option<&Error>) -> String {
    error.map_or_else(
        || "the log says why if it does".to_owned(),
        Error::to_string,
    )
}

fn server_text(server: &str, error: &touchline_client::Error) -> String {
    use touchline_client::Error as Client;
    match error {
        _ if error.is_unreachable() => format!(
            "cannot reach the server at {server}: {error}; is `touchline local` running? --server \
             names another"
        ),
        Client::Endpoint { .. } => format!("--server: {error}"),
        Client::NotFound(_) => format!("{error}; `touchline event list` says which there are"),
        Client::Invalid { .. } | Client::Conflict(_) => error.to_string(),
        Client::Throttled { .. } | Client::Unavailable { .. } => {
            format!("the server at {server} cannot serve now: {error}; try again")
        }
        Client::TimedOut(_) => format!(
            "no answer from the server at {server} within the deadline; is it a Touchline server, \
             and is it overloaded?"
        ),
        Client::Denied(_) => format!("the server at {server} refuses: {error}"),
        Client::Failed(_) => format!("the server at {server} failed: {error}; its log says more"),
    }
}

fn store_text(error: &touchline_store::Error) -> String {
    let text = causes(error);
    match error {
        touchline_store::Error::Unavailable(_) => format!(
            "{text}; a local stack is reached with --dynamodb-endpoint http://127.0.0.1:8000, AWS \
             needs a region and credentials"
        ),
        touchline_store::Error::Throttled(_) => format!("{text}; try again later"),
        _ => text,
    }
}

/// An error and what is behind it, in one line, without saying anything twice.
pub(crate) fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_what_is_on_it_and_the_flag_that_moves_it() {
        let error = Error::PortTaken {
            port: 8081,
            what: "the fans' WebSocket",
            flag: "--fans-port",
        };
        assert_eq!(
            error.to_string(),
            "port 8081 is taken: the fans' WebSocket would listen there; stop what has it, or \
             choose another with --fans-port PORT (0: any free one)"
        );
    }

    #[test]
    fn an_error_of_the_store_says_what_is_behind_it_in_one_line() {
        let source = io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        let error = Error::from(touchline_store::Error::Unavailable(Box::new(source)));
        let text = error.to_string();
        assert!(text.contains("connection refused"), "{text}");
        assert!(text.contains("--dynamodb-endpoint"), "{text}");
        assert!(!text.contains('\n'));
    }
}
