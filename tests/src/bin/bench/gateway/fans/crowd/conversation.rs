//! What one fan of the crowd sends and is sent. Judges a message as soon as it has come; waits for
//! nothing.

use std::{
    cmp::Reverse,
    io::Write,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mio::{Token, event};
use touchline_tests::fan::registration;

use super::{Crowd, Fan};
use crate::{
    gateway::{
        crowd::Said,
        fans::{
            account::{Account, Duty, News},
            connection::{Connection, Ended, Event},
            frames,
            judge::Protocol,
            say,
        },
    },
    load::unix_ns,
};

/// A fan whose connection was refused comes back after a random part of this.
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Crowd {
    /// Something came of a fan's socket.
    pub(super) fn on_socket(&mut self, fan: usize, event: &event::Event) -> Result<()> {
        let Some(connection) = &mut self.fans[fan].connection else {
            return Ok(());
        };
        if event.is_writable() || event.is_error() {
            let host = "touchline";
            if let Err(ended) = connection.writable(host, &self.args.path) {
                return self.ended(fan, &ended);
            }
        }
        if event.is_readable() && (self.reads(fan) || !self.fans[fan].is_registered) {
            self.read(fan, event.is_read_closed())?;
        }
        Ok(())
    }

    pub(super) fn connect(&mut self, fan: usize) -> Result<()> {
        self.shaking += 1;
        let (address, is_stalling) = (self.args.address, self.is_stalling(fan));
        let opened = Connection::open(address, is_stalling, &self.registry, Token(fan));
        match opened {
            Ok(connection) => {
                self.fans[fan].connection = Some(connection);
                Ok(())
            }
            Err(error) => self.ended(fan, &error.into()),
        }
    }

    /// Reads what is there. What is not there yet is another event, but for the end, which may have
    /// come with it.
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

    /// A connection could not be had or came to its end.
    fn ended(&mut self, fan: usize, ended: &Ended) -> Result<()> {
        self.fans[fan].connection = None;
        if !self.fans[fan].is_registered {
            self.shaking = self.shaking.saturating_sub(1);
        }
        self.fans[fan].is_registered = false;
        self.report.closed += 1;
        let Some(returning) = &mut self.returning else {
            bail!("{ended}; the last message was: {}", self.last(fan));
        };
        returning.refused();
        let pause = PAUSE_MAX.mul_f64(rand::random());
        self.pausing.push(Reverse((Instant::now() + pause, fan)));
        Ok(())
    }

    fn came(&mut self, fan: usize, connection: &mut Connection, event: Event<'_>) -> Result<()> {
        match event {
            Event::Open => {
                let frame = frames::text(&self.registration(fan)?);
                // What cannot be sent is noticed by reading.
                let _ = connection.send(&frame);
                Ok(())
            }
            Event::Ping => {
                self.report.pings += 1;
                Ok(())
            }
            Event::Text(text) => self.text(fan, text),
        }
    }

    /// What a fan says of itself.
    fn registration(&mut self, fan: usize) -> Result<String> {
        let consumer = self.consumer(fan);
        let mut message = registration(self.judge.consumer_id(consumer), "final");
        message["device_id"] = fan.to_string().into();
        if self.protocol(fan) == Protocol::Second {
            message["protocol"] = 2.into();
        }
        let Fan { account, state, .. } = &self.fans[fan];
        let (newest, is_shown) = (account.newest(), *state);
        let mut stands = false;
        if let Some(returning) = &mut self.returning
            && returning.with_set_id
            && let Some(set_id) = self.judge.set_id(consumer, is_shown)
        {
            let now = self.judge.newest().map_or(is_shown, |(_, state)| state);
            stands = self.judge.set_id(consumer, now).as_ref() == Some(&set_id);
            if stands {
                returning.shown(fan, unix_ns(SystemTime::now()));
            }
            message["set_id"] = set_id.into();
        }
        self.fans[fan].account = Account::registering(newest);
        if stands {
            // Nothing has to come.
            self.registered(fan)?;
        }
        Ok(message.to_string())
    }

    fn text(&mut self, fan: usize, text: &[u8]) -> Result<()> {
        let unix_ns = unix_ns(SystemTime::now());
        if text == br#"{"status": "success"}"# {
            let is_right = !self.is_answered_with_a_set(fan);
            ensure!(is_right, "a registration was answered with no set");
            let newest = self.judge.newest().map_or(0, |(change, _)| change);
            self.fans[fan].account = Account::registered(newest);
            return self.registered(fan);
        }
        if text.starts_with(br#"{"type":"error""#) && self.returning.is_some() {
            return Ok(());
        }
        let (consumer, protocol) = (self.consumer(fan), self.protocol(fan));
        let judged = self.judge.change(consumer, protocol, text);
        let (change, state) = judged.with_context(|| self.both(fan, text))?;
        let duty = match self.is_stalling(fan) {
            true => Duty::Newest,
            false => Duty::Each,
        };
        let before = self.fans[fan].account;
        let news = self.fans[fan].account.take(change, duty);
        let news = news.map_err(|what| anyhow!("{what}: {}", self.both(fan, text)))?;
        match protocol {
            Protocol::First => self.report.first += 1,
            Protocol::Second => self.report.second += 1,
        }
        self.report.bytes += text.len() as u64;
        match news {
            News::Newer { left_out } if !before.is_new() => {
                self.report.left_out += u64::from(left_out);
            }
            News::Newer { .. } | News::Answer => {}
            News::Repeat => self.report.repeats += 1,
        }
        if let Some(record) = &mut self.record {
            for number in [fan, state, text.len()] {
                record.write_all(&u32::try_from(number)?.to_le_bytes())?;
            }
            record.write_all(text)?;
        }
        let shown = &mut self.fans[fan];
        shown.state = state;
        shown.last.clear();
        shown.last.extend(text);
        if !shown.is_registered {
            self.registered(fan)?;
        }
        if news != News::Repeat
            && self
                .judge
                .newest()
                .is_some_and(|(newest, _)| newest == change)
        {
            self.shown(fan, change, unix_ns)?;
        }
        Ok(())
    }

    fn registered(&mut self, fan: usize) -> Result<()> {
        self.fans[fan].is_registered = true;
        self.shaking = self.shaking.saturating_sub(1);
        if self.unregistered > 0 {
            self.unregistered -= 1;
            if self.unregistered == 0 {
                say(&Said::Connected)?;
            }
        }
        Ok(())
    }

    /// A fan shows the newest change now.
    fn shown(&mut self, fan: usize, change: u32, unix_ns: u64) -> Result<()> {
        let is_stalling = self.is_stalling(fan);
        if let Some(returning) = &mut self.returning {
            returning.shown(fan, unix_ns);
        } else if let Some(due) = self.due.as_mut().filter(|due| due.change() == change) {
            due.shown(unix_ns, is_stalling);
            if let Some(done) = due.done() {
                self.due = None;
                say(&Said::Done(done))?;
            }
        } else if self.behind > 0 && is_stalling {
            self.behind -= 1;
            if self.behind == 0 {
                say(&Said::Ready)?;
            }
        }
        Ok(())
    }

    pub(super) fn last(&self, fan: usize) -> String {
        String::from_utf8_lossy(&self.fans[fan].last).into_owned()
    }

    fn both(&self, fan: usize, text: &[u8]) -> String {
        let text = String::from_utf8_lossy(text);
        format!("\n  first: {}\n  then:  {text}", self.last(fan))
    }
}
