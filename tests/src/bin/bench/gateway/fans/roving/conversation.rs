//! What one fan who comes back sends and is sent, and what its screen shows of it.

use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use touchline_tests::fan::registration;

use super::{Fan, Rovers};
use crate::gateway::{
    fans::{
        account::{Account, Duty, News},
        connection::{Connection, Event},
        frames,
        judge::Protocol,
        say,
    },
    restart::crowd::Said,
};

impl Rovers {
    pub(super) fn read(&mut self, fan: usize, to_the_end: bool) -> Result<()> {
        let Some(mut connection) = self.fans[fan].connection.take() else {
            return Ok(());
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        let on = |connection: &mut Connection, event: Event<'_>| self.came(fan, connection, event);
        let read = connection.pump(&mut buffer, to_the_end, on);
        self.buffer = buffer;
        match read? {
            Ok(()) => {
                self.fans[fan].connection = Some(connection);
                Ok(())
            }
            Err(ended) => {
                drop(connection);
                self.ended(fan, &ended)
            }
        }
    }

    fn came(&mut self, fan: usize, connection: &mut Connection, event: Event<'_>) -> Result<()> {
        match event {
            Event::Open => {
                let message = self.opened(fan);
                // What cannot be sent is noticed by reading.
                let _ = connection.send(&frames::text(&message));
                Ok(())
            }
            Event::Ping => Ok(()),
            Event::Text(text) => self.text(fan, text),
        }
    }

    /// The handshake is through; gives what the fan says of itself.
    fn opened(&mut self, fan: usize) -> String {
        let protocol = self.protocol(fan);
        let mut message = registration(self.judge.consumer_id(fan), "final");
        message["device_id"] = fan.to_string().into();
        if protocol == Protocol::Second {
            message["protocol"] = 2.into();
            if self.fans[fan].shown > 0 {
                message["set_id"] = self.judge.set_id(fan, self.fans[fan].state).into();
            }
        }
        let (newest, state) = self.judge.newest().unwrap_or_default();
        let stands = self.shows(fan, state);
        let opened = &mut self.fans[fan];
        opened.account = Account::registering(self.synced);
        opened.is_open = true;
        opened.is_registered = protocol == Protocol::Second;
        opened.backoff.reset();
        if let Some(away) = &mut opened.away {
            self.report.away_us.push(away.back(Instant::now(), newest));
            if protocol == Protocol::First {
                // Nothing says what it shows until the next change.
                opened.away = None;
            } else if stands {
                self.caught_up(fan);
            }
        }
        message.to_string()
    }

    fn text(&mut self, fan: usize, text: &[u8]) -> Result<()> {
        let protocol = self.protocol(fan);
        if text == br#"{"status": "success"}"# {
            let is_right = protocol == Protocol::First;
            ensure!(is_right, "a registration was answered with no set");
            self.fans[fan].account = Account::registered(self.synced);
            self.fans[fan].is_registered = true;
            return Ok(());
        }
        if text.starts_with(br#"{"type":"error""#) {
            self.report.errors += 1;
            return Ok(());
        }
        let judged = match protocol {
            Protocol::First => {
                let after = self.fans[fan].account.newest();
                let is_due = self.due.is_some_and(|(change, _)| change > after);
                self.judge.first_after(fan, after, is_due, text)
            }
            Protocol::Second => self.judge.change(fan, protocol, text),
        };
        let (change, state) = judged.with_context(|| self.both(fan, text))?;
        let taken = self.fans[fan].account.take(change, Duty::Newest);
        let news = taken.map_err(|what| anyhow!("{what}: {}", self.both(fan, text)))?;
        self.count(fan, change, news);
        self.show(fan, change, state, text);
        if protocol == Protocol::Second && change > self.first {
            self.first = change;
            say(&Said::First { change })?;
        }
        if let Some((due, left)) = &mut self.due
            && *due == change
            && news != News::Repeat
        {
            *left -= 1;
            if *left == 0 {
                (self.synced, self.due) = (change, None);
                say(&Said::All { change })?;
            }
        }
        Ok(())
    }

    fn count(&mut self, fan: usize, change: u32, news: News) {
        let Fan { front, shown, .. } = self.fans[fan];
        self.report.received[front] += 1;
        if self
            .stopped
            .is_some_and(|(stopped, newest)| stopped == front && change > newest)
        {
            self.report.served += 1;
        }
        if self.protocol(fan) == Protocol::Second {
            let is_again = news == News::Repeat || change == shown;
            self.report.repeats += u64::from(is_again);
            self.report.older += u64::from(change < shown);
        }
    }

    /// The screen shows it, unless protocol 2 says that something newer is shown already.
    fn show(&mut self, fan: usize, change: u32, state: usize, text: &[u8]) {
        let protocol = self.protocol(fan);
        let shown = &mut self.fans[fan];
        shown.last.clear();
        shown.last.extend(text);
        if protocol == Protocol::First || change > shown.shown {
            (shown.shown, shown.state) = (change, state);
        }
        let change = shown.shown;
        if shown.away.as_ref().is_some_and(|away| away.is_over(change)) {
            self.caught_up(fan);
        }
    }

    /// A fan shows what is newest, if it was away.
    pub(super) fn caught_up(&mut self, fan: usize) {
        if let Some(away) = self.fans[fan].away.take() {
            let (since_lost, since_back) = away.took(Instant::now());
            self.report.behind_us.push(since_lost);
            self.report.welcome_us.push(since_back);
        }
    }

    fn both(&self, fan: usize, text: &[u8]) -> String {
        let text = String::from_utf8_lossy(text);
        format!("\n  before: {}\n  then:   {text}", self.last(fan))
    }
}
