//! Rows of the session table: opening, registering, closing, and finding an audience. Knows no
//! connection: who holds one, and whether it still is there, is the front's.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_smithy_types::date_time::{DateTime, Format};
use futures::{StreamExt, stream, stream::BoxStream};

use crate::{
    Error, Result,
    ids::{ConnectionId, ContentId},
    row::{
        self, AUDIENCE_INDEX, AUDIENCE_KEY, CONNECTED_AT, CONSUMER_ID, CONTENT_ID, DEVICE_ID,
        ENDPOINT, EXPIRES_AT, PROTOCOL, REGISTERED_AT, Row, SESSION_ID, TOKEN_CONSUMER_ID,
        TOKEN_EXPIRES_AT, number,
        session::{AUDIENCE_SHARDS, PROJECTION, SESSION_LIFETIME, audience_key, shard_key},
        text,
    },
    session::{ExpiredSession, Protocol, Registration, Session, TokenHolder},
    tables::Store,
};

/// Rows a page: small enough that the first fans are served while the rest is still being read.
const PAGE_ROWS: i32 = 1_000;
/// Segments of a scan.
const SEGMENTS: i32 = 8;
/// Shards or segments that are read at once.
const READS_IN_FLIGHT: usize = 16;

/// A page of an audience.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AudiencePage {
    /// Sessions to reach.
    pub sessions: Vec<Session>,
    /// Rows that are no audience: not registered, expired, or not to be understood.
    pub skipped: usize,
}

impl Store {
    /// `$connect`: writes the session's row, replacing one of the same id. The row expires after
    /// API Gateway's longest connection, 2 hours, and ten minutes more.
    pub async fn open_session(&self, connection: &ConnectionId, endpoint: &str) -> Result<()> {
        self.open_session_of(connection, endpoint, None).await
    }

    /// The same, of who presented a token: nobody else can register on this row.
    pub async fn open_session_of(
        &self,
        connection: &ConnectionId,
        endpoint: &str,
        holder: Option<&TokenHolder>,
    ) -> Result<()> {
        let now = SystemTime::now();
        let connected_at = DateTime::from(now).fmt(Format::DateTime);
        let connected_at = connected_at.expect("the present is a year of four digits");
        let mut request = self
            .dynamodb
            .put_item()
            .table_name(&self.names.session)
            .item(SESSION_ID, text(connection.as_str()))
            .item(CONNECTED_AT, text(connected_at))
            .item(
                EXPIRES_AT,
                number(&(since_epoch(now) + SESSION_LIFETIME).as_secs()),
            );
        if !endpoint.is_empty() {
            request = request.item(ENDPOINT, text(endpoint));
        }
        if let Some(holder) = holder {
            request = request.item(TOKEN_CONSUMER_ID, text(holder.consumer_id.as_str()));
            if let Some(expires_at) = holder.expires_at {
                let seconds = since_epoch(expires_at).as_secs();
                request = request.item(TOKEN_EXPIRES_AT, number(&seconds));
            }
        }
        let written = request.send().await;
        written.map_err(|error| Error::from_sdk(&self.names.session, error))?;
        Ok(())
    }

    /// `sendmessage`: sets what the fan says on the row and makes it part of the audience.
    /// `Error::Conflict` when the session is closed: a late message never brings it back.
    pub async fn register_session(
        &self,
        connection: &ConnectionId,
        registration: &Registration,
    ) -> Result<()> {
        let content = registration.content_id.as_str();
        let mut request = self
            .dynamodb
            .update_item()
            .table_name(&self.names.session)
            .key(SESSION_ID, text(connection.as_str()))
            .condition_expression(
                "attribute_exists(#session) \
                 AND (attribute_not_exists(#holder) OR #holder = :consumer_id)",
            )
            .expression_attribute_names("#session", SESSION_ID)
            .expression_attribute_names("#holder", TOKEN_CONSUMER_ID);
        let sets = [
            (CONSUMER_ID, text(registration.consumer_id.as_str())),
            (DEVICE_ID, text(registration.device_id.as_str())),
            (CONTENT_ID, text(content)),
            (
                AUDIENCE_KEY,
                text(audience_key(content, connection.as_str())),
            ),
            (
                REGISTERED_AT,
                number(&since_epoch(SystemTime::now()).as_millis()),
            ),
        ];
        for (name, value) in sets {
            request = request
                .expression_attribute_names(format!("#{name}"), name)
                .expression_attribute_values(format!(":{name}"), value);
        }
        let sets = sets_expression(&[
            CONSUMER_ID,
            DEVICE_ID,
            CONTENT_ID,
            AUDIENCE_KEY,
            REGISTERED_AT,
        ]);
        request = request.expression_attribute_names("#protocol", PROTOCOL);
        request = match registration.protocol {
            Protocol::V1 => request.update_expression(format!("{sets} REMOVE #protocol")),
            Protocol::V2 => request
                .update_expression(format!("{sets}, #protocol = :protocol"))
                .expression_attribute_values(":protocol", number(&2)),
        };
        let written = request.send().await;
        written.map_err(|error| match Error::from_sdk(&self.names.session, error) {
            Error::Conflict(_) => Error::Conflict("the session is closed".to_owned()),
            other => other,
        })?;
        Ok(())
    }

    /// `refresh`: the connection's token is good for longer now. `Error::Conflict` when the session
    /// is closed, or was opened with another consumer's token, or with none.
    pub async fn renew_session(
        &self,
        connection: &ConnectionId,
        holder: &TokenHolder,
    ) -> Result<()> {
        let request = self
            .dynamodb
            .update_item()
            .table_name(&self.names.session)
            .key(SESSION_ID, text(connection.as_str()))
            .condition_expression("#holder = :holder")
            .expression_attribute_names("#holder", TOKEN_CONSUMER_ID)
            .expression_attribute_values(":holder", text(holder.consumer_id.as_str()))
            .expression_attribute_names("#until", TOKEN_EXPIRES_AT);
        let request = match holder.expires_at {
            Some(expires_at) => request
                .update_expression("SET #until = :until")
                .expression_attribute_values(":until", number(&since_epoch(expires_at).as_secs())),
            None => request.update_expression("REMOVE #until"),
        };
        let written = request.send().await;
        written.map_err(|error| Error::from_sdk(&self.names.session, error))?;
        Ok(())
    }

    /// Sessions whose token has expired, page by page: a scan of the table. Those that were opened
    /// without a token are not among them.
    pub fn expired_sessions(
        &self,
        now: SystemTime,
    ) -> BoxStream<'static, Result<Vec<ExpiredSession>>> {
        let store = self.clone();
        let first = Some(None::<Row>);
        stream::unfold(first, move |start| {
            let store = store.clone();
            async move {
                let start = start?;
                let page = store.dynamodb.scan().table_name(&store.names.session);
                let page = page
                    .filter_expression("#until < :now")
                    .projection_expression("#session, #endpoint")
                    .expression_attribute_names("#until", TOKEN_EXPIRES_AT)
                    .expression_attribute_names("#session", SESSION_ID)
                    .expression_attribute_names("#endpoint", ENDPOINT)
                    .expression_attribute_values(":now", number(&since_epoch(now).as_secs()))
                    .set_exclusive_start_key(start)
                    .send()
                    .await;
                Some(match page {
                    Ok(page) => {
                        let rows = page.items.unwrap_or_default();
                        let expired = rows.iter().filter_map(row::session::expired).collect();
                        (Ok(expired), page.last_evaluated_key.map(Some))
                    }
                    Err(error) => (Err(Error::from_sdk(&store.names.session, error)), None),
                })
            }
        })
        .boxed()
    }

    /// `$disconnect`, and a connection found gone: deletes the row; an unknown id is fine.
    pub async fn close_session(&self, connection: &ConnectionId) -> Result<()> {
        let request = self.dynamodb.delete_item().table_name(&self.names.session);
        let deleted = request
            .key(SESSION_ID, text(connection.as_str()))
            .send()
            .await;
        deleted.map_err(|error| Error::from_sdk(&self.names.session, error))?;
        Ok(())
    }

    /// The row of one connection, if it has registered and has not expired.
    pub async fn session(&self, connection: &ConnectionId) -> Result<Option<Session>> {
        let request = self.dynamodb.get_item().table_name(&self.names.session);
        let found = request
            .key(SESSION_ID, text(connection.as_str()))
            .consistent_read(true)
            .send()
            .await;
        let found = found.map_err(|error| Error::from_sdk(&self.names.session, error))?;
        Ok(found
            .item
            .and_then(|row| row::session::from_row(&row, SystemTime::now())))
    }

    /// The sessions that an event with these contents reaches (none: every session), page by page,
    /// several shards at once. A page that fails is an `Err`; the others still come.
    ///
    /// Pages come from the audience index where the table has one, otherwise from a scan of the
    /// table. A page that fails ends its shard, since nobody knows where the next one starts.
    pub fn audience(
        &self,
        contents: &BTreeSet<ContentId>,
    ) -> BoxStream<'static, Result<AudiencePage>> {
        self.audience_of(contents, None)
    }

    /// The same, of those only who registered at `since` or later, or nobody knows when. The index
    /// finds them without reading the rest, where the event names its contents.
    pub fn late_audience(
        &self,
        contents: &BTreeSet<ContentId>,
        since: SystemTime,
    ) -> BoxStream<'static, Result<AudiencePage>> {
        self.audience_of(contents, Some(since))
    }

    fn audience_of(
        &self,
        contents: &BTreeSet<ContentId>,
        since: Option<SystemTime>,
    ) -> BoxStream<'static, Result<AudiencePage>> {
        let store = self.clone();
        let wanted = Arc::new(Wanted {
            contents: contents.clone(),
            since_ms: since.map(|since| since_epoch(since).as_millis()),
        });
        let parts = async move {
            match store.has_audience_index().await {
                Ok(has_index) => audience_parts(&store, &wanted, has_index),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            }
        };
        stream::once(parts).flatten().boxed()
    }

    /// Opens one page of a part of the audience.
    async fn audience_page(
        &self,
        part: &Part,
        since_ms: Option<u128>,
        start: Option<Row>,
    ) -> Result<(Vec<Row>, Next)> {
        match part {
            Part::Shard(key) => {
                let mut request = self
                    .dynamodb
                    .query()
                    .table_name(&self.names.session)
                    .index_name(AUDIENCE_INDEX)
                    .key_condition_expression(match since_ms {
                        Some(_) => "#audience = :audience AND #registered >= :since",
                        None => "#audience = :audience",
                    })
                    .expression_attribute_names("#audience", AUDIENCE_KEY)
                    .expression_attribute_values(":audience", text(key))
                    .projection_expression(projection())
                    .limit(PAGE_ROWS)
                    .set_exclusive_start_key(start);
                for name in PROJECTION {
                    request = request.expression_attribute_names(format!("#{name}"), name);
                }
                if let Some(since_ms) = since_ms {
                    request = request
                        .expression_attribute_names("#registered", REGISTERED_AT)
                        .expression_attribute_values(":since", number(&since_ms));
                }
                let page = request.send().await;
                let page = page.map_err(|error| self.audience_error(error))?;
                Ok((page.items.unwrap_or_default(), page.last_evaluated_key))
            }
            Part::Segment { index, segment } => {
                let mut request = self
                    .dynamodb
                    .scan()
                    .table_name(&self.names.session)
                    .set_index_name(index.then(|| AUDIENCE_INDEX.to_owned()))
                    .segment(*segment)
                    .total_segments(SEGMENTS)
                    .projection_expression(projection())
                    .limit(PAGE_ROWS)
                    .set_exclusive_start_key(start);
                for name in PROJECTION {
                    request = request.expression_attribute_names(format!("#{name}"), name);
                }
                if let Some(since_ms) = since_ms {
                    // A row that the prototype registered does not say when.
                    request = request
                        .filter_expression(
                            "#registered >= :since OR attribute_not_exists(#registered)",
                        )
                        .expression_attribute_names("#registered", REGISTERED_AT)
                        .expression_attribute_values(":since", number(&since_ms));
                }
                let page = request.send().await;
                let page = page.map_err(|error| self.audience_error(error))?;
                Ok((page.items.unwrap_or_default(), page.last_evaluated_key))
            }
        }
    }

    fn audience_error<E, R>(&self, error: aws_sdk_dynamodb::error::SdkError<E, R>) -> Error
    where
        E: aws_sdk_dynamodb::error::ProvideErrorMetadata
            + std::error::Error
            + Send
            + Sync
            + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        let error = Error::from_sdk(&self.names.session, error);
        if matches!(error, Error::Invalid { .. }) {
            // The index may have been deleted since: look again before the next audience.
            self.forget_audience_index();
        }
        error
    }
}

type Next = Option<Row>;

/// Whose sessions are looked for.
#[derive(Debug)]
struct Wanted {
    contents: BTreeSet<ContentId>,
    since_ms: Option<u128>,
}

/// What is read by one sequence of pages.
#[derive(Debug, Clone)]
enum Part {
    /// One shard of a content in the index, by its key.
    Shard(String),
    /// A segment of the index or of the table.
    Segment { index: bool, segment: i32 },
}

fn audience_parts(
    store: &Store,
    wanted: &Arc<Wanted>,
    has_index: bool,
) -> BoxStream<'static, Result<AudiencePage>> {
    let parts: Vec<Part> = if has_index && !wanted.contents.is_empty() {
        let contents = wanted.contents.iter();
        contents
            .flat_map(|content| {
                (0..AUDIENCE_SHARDS).map(|shard| Part::Shard(shard_key(content.as_str(), shard)))
            })
            .collect()
    } else {
        (0..SEGMENTS)
            .map(|segment| Part::Segment {
                index: has_index,
                segment,
            })
            .collect()
    };
    let (store, wanted) = (store.clone(), wanted.clone());
    stream::iter(parts)
        .map(move |part| pages(store.clone(), wanted.clone(), part))
        .flatten_unordered(READS_IN_FLIGHT)
        .boxed()
}

/// The pages of one part, one after another; the first that fails is the last.
fn pages(
    store: Store,
    wanted: Arc<Wanted>,
    part: Part,
) -> BoxStream<'static, Result<AudiencePage>> {
    let first = Some(None::<Row>);
    stream::unfold(first, move |start| {
        let (store, wanted, part) = (store.clone(), wanted.clone(), part.clone());
        async move {
            let start = start?;
            match store.audience_page(&part, wanted.since_ms, start).await {
                Ok((rows, next)) => Some((Ok(read(&rows, &wanted.contents)), next.map(Some))),
                Err(error) => Some((Err(error), None)),
            }
        }
    })
    .boxed()
}

/// Sessions of other contents are neither audience nor skipped: they simply watch something else.
fn read(rows: &[Row], contents: &BTreeSet<ContentId>) -> AudiencePage {
    let now = SystemTime::now();
    let mut page = AudiencePage {
        sessions: Vec::with_capacity(rows.len()),
        skipped: 0,
    };
    for row in rows {
        match row::session::from_row(row, now) {
            Some(session) => {
                let watched = session.content_id.as_ref();
                if contents.is_empty() || watched.is_some_and(|content| contents.contains(content))
                {
                    page.sessions.push(session);
                }
            }
            None => page.skipped += 1,
        }
    }
    page
}

fn projection() -> String {
    PROJECTION.map(|name| format!("#{name}")).join(", ")
}

fn sets_expression(names: &[&str]) -> String {
    let sets: Vec<_> = names
        .iter()
        .map(|name| format!("#{name} = :{name}"))
        .collect();
    format!("SET {}", sets.join(", "))
}

/// Time since 1970, for attributes.
pub(crate) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
