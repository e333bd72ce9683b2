//! `touchline replay`: a match, from a file, into the event table of any installation.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use clap::{ArgGroup, Args};
use futures::{StreamExt, TryStreamExt};
use indicatif::ProgressBar;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    args::{Format, ServerAddress},
    demo,
    match_file::{FILE_BYTES_MAX, Match, MatchFileError, Moment},
    output,
    replay::{Pace, Played, play},
    show,
};

/// Flags of `touchline replay`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("match").required(true).args(["file", "world_cup_final"]))]
#[command(after_help = "\
A match file is TOML: event_id, title, home, away, venue, match_type and, if the event is not for
everybody, content_ids; then for each moment
  [[moments]]
  minute = \"45+7\"
  event = \"GOAL\"
  timing = \"FIRST-HALF-3\"
  score = [1, 0]
  text = \"what happened, for people\"
Each moment replaces the event's row; in between its display_clock runs.

Examples:
  touchline replay --world-cup-final
  touchline replay my-match.toml --event 7 --speed 600
  touchline replay --world-cup-final --loop --server http://10.0.0.7:50051")]
pub struct ReplayArgs {
    /// A match file
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Play the 2022 World Cup final
    #[arg(long)]
    pub world_cup_final: bool,
    /// The event to write [default: the one that the match names]
    #[arg(long, value_name = "EVENT")]
    pub event: Option<String>,
    #[command(flatten)]
    /// How fast
    pub pace: Pace,
    /// Start again at the end, until Ctrl-C
    #[arg(long = "loop")]
    pub for_ever: bool,
    #[command(flatten)]
    /// Where
    pub at: ServerAddress,
    #[command(flatten)]
    /// How it looks
    pub format: Format,
}

/// Runs the command.
pub async fn run(args: ReplayArgs, shutdown: CancellationToken) -> Result<(), Error> {
    let played = match &args.file {
        Some(path) => read(path)?,
        None => demo::world_cup_final(),
    };
    let event_id = args.event.unwrap_or_else(|| played.event_id.to_string());
    let failed = |source| Error::Server {
        server: args.at.server.clone(),
        source,
    };
    let client = args.at.client()?;
    // A replay waits for a server that goes away; one that is not there is said at once.
    if let Err(error) = client.get_event(&event_id).await
        && error.is_unreachable()
    {
        return Err(failed(error));
    }
    let bar = progress(played.moments.len());
    let mut moments = play(client, played, event_id, args.pace, args.for_ever).boxed();
    loop {
        let next = tokio::select! {
            next = moments.try_next() => next.map_err(failed)?,
            () = shutdown.cancelled() => None,
        };
        match next {
            Some(Played::Moment {
                moment,
                index,
                state,
                ..
            }) => {
                bar.set_position(index as u64 + 1);
                bar.suspend(|| match args.format.json {
                    true => output::line(json!({ "state": show::state_json(&state) })),
                    false => output::line(moment_line(&moment)),
                })?;
            }
            Some(Played::Over) => bar.reset(),
            None => break,
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// A moment as a line of text.
pub fn moment_line(moment: &Moment) -> String {
    format!(
        "{:>7}  {:<5}  {:<14}  {}",
        format!("{}'", moment.minute),
        score(moment),
        show::printable(&moment.match_event),
        show::printable(&moment.text)
    )
}

/// The score as it is read out.
pub fn score(moment: &Moment) -> String {
    let [home, away] = moment.score;
    format!("{home}–{away}")
}

fn read(path: &Path) -> Result<Match, Error> {
    let bad = |reason: String| Error::File {
        path: path.to_owned(),
        reason,
    };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| bad(error.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(bad(format!("at most {FILE_BYTES_MAX} bytes are accepted")));
    }
    Match::parse(&text).map_err(|error| bad(file_error(&text, &error)))
}

/// TOML's own message draws a picture of several lines; ours names the line.
fn file_error(text: &str, error: &MatchFileError) -> String {
    let MatchFileError::Toml(toml) = error else {
        return error.to_string();
    };
    match toml.span().and_then(|span| text.get(..span.start)) {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            format!("line {line}: {}", toml.message())
        }
        None => toml.message().to_owned(),
    }
}

fn progress(moments: usize) -> ProgressBar {
    if !output::has_terminal() {
        return ProgressBar::hidden();
    }
    ProgressBar::new(moments as u64).with_style(output::progress_style("moments"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_match_is_refused_in_one_line_that_names_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("match.toml");
        for wrong in ["title = nothing", "[[moments]]\nminute = \"1\"", "="] {
            std::fs::write(&path, format!("event_id = \"1\"\n{wrong}\n")).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("match.toml: line 2: "), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("match.toml");
        // Sparse: the size costs nothing.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("at most"), "{error}");
    }
}
