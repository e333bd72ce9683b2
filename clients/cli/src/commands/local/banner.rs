//! What is said when everything is up: where it is, and what to try. Every command is right as it
//! stands, for the ports that were chosen.

use std::{fmt::Write, net::SocketAddr, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    args, demo,
    output::{FAINT, STRONG, styled},
    stack::Addresses,
};

/// The event that the demo's match is written to, and the prototype's simulator writes.
const EVENT_ID: &str = "1";

/// For people.
pub(super) fn text(
    page: SocketAddr,
    addresses: &Addresses,
    data: Option<&Path>,
    started_in: Duration,
    replay: bool,
) -> String {
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "touchline".to_owned());
    let data = data.map_or_else(
        || "in memory".to_owned(),
        |folder| folder.display().to_string(),
    );
    let mut text = format!(
        "\n{} is up after {:.2} s\n\n",
        styled(STRONG, "Touchline"),
        started_in.as_secs_f64()
    );
    for (what, place) in [
        ("page", styled(STRONG, format_args!("http://{page}"))),
        ("fans (WebSocket)", addresses.gateway_url()),
        (
            "gateway management",
            format!("http://{}", addresses.management),
        ),
        ("server (gRPC)", addresses.grpc.to_string()),
        ("change feed (gRPC)", addresses.push_grpc.to_string()),
        ("server metrics", metrics_url(addresses.metrics)),
        ("push metrics", metrics_url(addresses.push_metrics)),
        ("DynamoDB", addresses.dynamodb_url()),
        ("data", data),
    ] {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "  {what:<20}{place}");
    }
    let _ = writeln!(text, "\n{}\n", styled(FAINT, "Next, in another terminal:"));
    for command in next_commands(addresses, &program) {
        let _ = writeln!(text, "  {command}");
    }
    if replay {
        let _ = writeln!(
            text,
            "\n{}",
            styled(
                FAINT,
                format_args!("Event {EVENT_ID} replays the 2022 World Cup final. Ctrl-C ends.")
            )
        );
    }
    text
}

/// For machines: where everything is.
pub(super) fn json(page: SocketAddr, addresses: &Addresses, data: Option<&Path>) -> Value {
    json!({
        "type": "ready",
        "page": format!("http://{page}"),
        "server": addresses.server_url(),
        "gateway": addresses.gateway_url(),
        "management": format!("http://{}", addresses.management),
        "change_feed": format!("http://{}", addresses.push_grpc),
        "metrics": metrics_url(addresses.metrics),
        "push_metrics": metrics_url(addresses.push_metrics),
        "dynamodb": addresses.dynamodb_url(),
        "data": data.map(|folder| folder.display().to_string()),
    })
}

fn metrics_url(address: SocketAddr) -> String {
    format!("http://{address}/metrics")
}

fn next_commands(addresses: &Addresses, program: &str) -> Vec<String> {
    let consumer = demo::consumers()
        .first()
        .map_or_else(|| "1".to_owned(), |consumer| consumer.consumer_id.clone());
    let server = flag("--server", &addresses.server_url(), args::SERVER);
    let gateway = flag("--gateway", &addresses.gateway_url(), args::GATEWAY);
    vec![
        format!("{program} watch {EVENT_ID} --consumer {consumer}{server}"),
        format!("{program} fan {consumer}{gateway}"),
        format!("{program} event put {EVENT_ID} match_event=GOAL --merge{server}"),
        format!(
            "grpcurl -plaintext -d '{{\"consumer_id\": \"{consumer}\", \"event_id\": \"{EVENT_ID}\"}}' \\\n      {} touchline.v1.ComponentService/GetComponents",
            addresses.grpc
        ),
        format!(
            "aws dynamodb scan --endpoint-url {} \\\n      --table-name rt_personalize_event_manager",
            addresses.dynamodb_url()
        ),
    ]
}

/// The flag, unless the command finds the place without it.
fn flag(name: &str, value: &str, default: &str) -> String {
    match value == default {
        true => String::new(),
        false => format!(" {name} {value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(port: u16) -> Addresses {
        let at = |port: u16| ([127, 0, 0, 1], port).into();
        Addresses {
            dynamodb: at(8000),
            grpc: at(port),
            push_grpc: at(50052),
            fans: at(8081),
            management: at(8082),
            metrics: at(9090),
            push_metrics: at(9091),
            stage: "dev".to_owned(),
        }
    }

    #[test]
    fn on_the_default_ports_the_commands_are_short() {
        let commands = next_commands(&addresses(50051), "touchline").join("\n");
        assert!(!commands.contains("--server"), "{commands}");
        assert!(!commands.contains("--gateway"), "{commands}");
        assert!(
            commands.contains("127.0.0.1:50051 touchline.v1"),
            "{commands}"
        );
    }

    #[test]
    fn on_other_ports_the_commands_name_them() {
        let commands = next_commands(&addresses(50099), "touchline").join("\n");
        assert!(
            commands.contains("--server http://127.0.0.1:50099"),
            "{commands}"
        );
        assert!(
            commands.contains("127.0.0.1:50099 touchline.v1"),
            "{commands}"
        );
    }
}
