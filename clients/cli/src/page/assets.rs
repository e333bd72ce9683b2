//! The page's files, inside the binary, so that it needs no network and no folder. Never cached:
//! they come from this machine, and a new binary has new ones.

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::Refused;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const FILES: &[(&str, &str, &str)] = &[
    ("page.css", CSS, include_str!("../../page/page.css")),
    ("page.js", JS, include_str!("../../page/page.js")),
    ("phone.js", JS, include_str!("../../page/phone.js")),
    ("desk.js", JS, include_str!("../../page/desk.js")),
    (
        "fan-socket.js",
        JS,
        include_str!("../../page/fan-socket.js"),
    ),
    ("icon.svg", SVG, include_str!("../../page/icon.svg")),
];

pub(super) async fn index() -> Response {
    answer(HTML, include_str!("../../page/index.html"))
}

pub(super) async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(file, ..)| *file == name) {
        Some((_, kind, text)) => answer(kind, text),
        None => Refused::new(StatusCode::NOT_FOUND, "there is nothing here").into_response(),
    }
}

fn answer(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
