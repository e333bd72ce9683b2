//! Whether every port can be had, asked before anything is started. Keeps none of them: another
//! process can still come in between, and then the part that wants the port says so.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener},
};

use super::StackArgs;
use crate::Error;

/// A port that is wanted.
pub(crate) struct Port {
    /// Its number; 0: any free one.
    pub(crate) port: u16,
    /// What would listen there.
    pub(crate) what: &'static str,
    /// The flag that moves it.
    pub(crate) flag: &'static str,
}

/// Finds the first port that cannot be had.
pub(super) fn check(args: &StackArgs) -> Result<(), Error> {
    check_with(args, [])
}

/// The same, with ports that are wanted beside the stack's.
pub(crate) fn check_with(
    args: &StackArgs,
    more: impl IntoIterator<Item = Port>,
) -> Result<(), Error> {
    let mut wanted = wanted(args);
    wanted.extend(more.into_iter().filter(|port| port.port != 0));
    for (place, port) in wanted.iter().enumerate() {
        if let Some(first) = wanted[..place].iter().find(|first| first.port == port.port) {
            return Err(Error::PortTwice {
                port: port.port,
                first: first.flag,
                second: port.flag,
            });
        }
        try_to_listen(port)?;
    }
    Ok(())
}

/// The ports that are asked for by number.
fn wanted(args: &StackArgs) -> Vec<Port> {
    let port = |port, what, flag| Port { port, what, flag };
    let mut ports = vec![
        port(
            args.dynamodb_port,
            "the embedded DynamoDB",
            "--dynamodb-port",
        ),
        port(args.grpc_port, "the server (gRPC)", "--grpc-port"),
        port(
            args.push_grpc_port,
            "the push adapter (gRPC)",
            "--push-grpc-port",
        ),
        port(args.fans_port, "the fans' WebSocket", "--fans-port"),
        port(
            args.management_port,
            "the gateway's management API",
            "--management-port",
        ),
        port(args.metrics_port, "the server's metrics", "--metrics-port"),
        port(
            args.push_metrics_port,
            "the push adapter's metrics",
            "--push-metrics-port",
        ),
    ];
    ports.retain(|port| port.port != 0);
    ports
}

fn try_to_listen(wanted: &Port) -> Result<(), Error> {
    let &Port { port, what, flag } = wanted;
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            Err(Error::PortTaken { port, what, flag })
        }
        Err(source) => Err(Error::Port {
            port,
            what,
            flag,
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_flag() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let args = StackArgs {
            management_port: taken.local_addr().unwrap().port(),
            ..StackArgs::in_memory()
        };
        let error = check(&args).unwrap_err().to_string();
        assert!(error.contains("--management-port"), "{error}");
        drop(taken);
        check(&args).unwrap();
    }

    #[test]
    fn two_flags_never_share_a_port() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let args = StackArgs {
            grpc_port: port,
            fans_port: port,
            ..StackArgs::in_memory()
        };
        let error = check(&args).unwrap_err().to_string();
        assert!(error.contains("--grpc-port and by --fans-port"), "{error}");
    }
}
