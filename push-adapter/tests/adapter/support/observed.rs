//! What the adapter shows to its operators, asked for as they do.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::DEADLINE;

/// The status and the body of one answer.
pub(crate) async fn observed(address: SocketAddr, path: &str) -> (u16, String) {
    let ask = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(DEADLINE, ask).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Waits until the metrics have each of these lines.
pub(crate) async fn until_shown(address: SocketAddr, lines: &[&str]) {
    let mut shown = String::new();
    let wait = async {
        loop {
            (_, shown) = observed(address, "/metrics").await;
            let is_shown = |line: &&str| shown.lines().any(|shown| shown == *line);
            if lines.iter().all(is_shown) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, wait).await;
    assert!(waited.is_ok(), "{lines:?} are not all in\n{shown}");
}
