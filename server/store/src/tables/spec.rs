//! What each table must be: its keys, its stream, its index. Pure: it builds requests and judges
//! descriptions, and calls nobody.

use aws_sdk_dynamodb::{
    operation::create_table::builders::CreateTableFluentBuilder,
    types::{
        AttributeDefinition, BillingMode, GlobalSecondaryIndex, GlobalSecondaryIndexDescription,
        IndexStatus, KeySchemaElement, KeyType, Projection, ProjectionType, ScalarAttributeType,
        StreamSpecification, StreamViewType, TableDescription,
    },
};

use super::{TableNames, misconfigured};
use crate::{
    Result,
    row::{AUDIENCE_INDEX, AUDIENCE_KEY, EVENT_ID, ITEM_ID, LEASE_KEY, REGISTERED_AT, SESSION_ID},
};

/// One table as it must be. Its key is one text attribute.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec<'a> {
    pub(super) name: &'a str,
    hash_key: &'static str,
    has_stream: bool,
    pub(super) has_audience_index: bool,
    /// Whether rows of it expire.
    pub(super) has_ttl: bool,
}

impl<'a> Spec<'a> {
    pub(super) fn all(names: &'a TableNames) -> [Self; 4] {
        let table = |name, hash_key| Self {
            name,
            hash_key,
            has_stream: false,
            has_audience_index: false,
            has_ttl: false,
        };
        [
            Self {
                has_stream: true,
                ..table(&names.event, EVENT_ID)
            },
            Self {
                has_audience_index: true,
                has_ttl: true,
                ..table(&names.session, SESSION_ID)
            },
            table(&names.item, ITEM_ID),
            Self {
                has_ttl: true,
                ..table(&names.lease, LEASE_KEY)
            },
        ]
    }

    /// The request that makes the table, billed on demand.
    pub(super) fn create(&self, request: CreateTableFluentBuilder) -> CreateTableFluentBuilder {
        let mut request = request
            .table_name(self.name)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(attribute(self.hash_key, ScalarAttributeType::S))
            .key_schema(key(self.hash_key, KeyType::Hash));
        if self.has_stream {
            let stream = StreamSpecification::builder()
                .stream_enabled(true)
                .stream_view_type(StreamViewType::NewAndOldImages)
                .build();
            request = request.stream_specification(stream.expect("the switch is set"));
        }
        if self.has_audience_index {
            for definition in audience_attributes() {
                request = request.attribute_definitions(definition);
            }
            let index = GlobalSecondaryIndex::builder()
                .index_name(AUDIENCE_INDEX)
                .set_key_schema(Some(audience_keys().to_vec()))
                .projection(whole_rows())
                .build();
            request = request.global_secondary_indexes(index.expect("name and keys are set"));
        }
        request
    }

    /// Whether a table that is there can work.
    pub(super) fn verify(&self, table: &TableDescription) -> Result<()> {
        let (name, hash_key) = (self.name, self.hash_key);
        let keys = table.key_schema();
        let is_key_right = keys == [key(hash_key, KeyType::Hash)]
            && table
                .attribute_definitions()
                .contains(&attribute(hash_key, ScalarAttributeType::S));
        if !is_key_right {
            let found: Vec<_> = keys.iter().map(KeySchemaElement::attribute_name).collect();
            return Err(misconfigured(format!(
                "table {name} has the key {found:?} and needs the text {hash_key:?} as its only \
                 key: give another table's name, or make this table anew"
            )));
        }
        if self.has_stream {
            let stream = table.stream_specification.as_ref();
            let is_on = stream.is_some_and(StreamSpecification::stream_enabled);
            let view = stream.and_then(|stream| stream.stream_view_type.as_ref());
            let has_new_images = matches!(
                view,
                Some(StreamViewType::NewAndOldImages | StreamViewType::NewImage)
            );
            if !is_on || !has_new_images {
                let found = match view {
                    Some(view) if is_on => format!("a stream of {view}"),
                    _ => "no stream".to_owned(),
                };
                return Err(misconfigured(format!(
                    "table {name} has {found} and needs one of NEW_AND_OLD_IMAGES: \
                     aws dynamodb update-table --table-name {name} --stream-specification \
                     StreamEnabled=true,StreamViewType=NEW_AND_OLD_IMAGES"
                )));
            }
        }
        Ok(())
    }
}

/// Whether the session table's index is there, complete, and as it must be.
pub(super) fn has_usable_audience_index(table: &TableDescription) -> bool {
    let mut indexes = table.global_secondary_indexes().iter();
    indexes.any(|index| {
        is_audience_index(index)
            && matches!(
                index.index_status,
                Some(IndexStatus::Active | IndexStatus::Updating)
            )
    })
}

/// Whether an index is the audience index and holds whole rows.
pub(super) fn is_audience_index(index: &GlobalSecondaryIndexDescription) -> bool {
    let projection = index.projection.as_ref();
    let projected = projection.and_then(|projection| projection.projection_type.as_ref());
    index.index_name() == Some(AUDIENCE_INDEX)
        && index.key_schema() == audience_keys()
        && projected == Some(&ProjectionType::All)
}

/// Types of the index's key attributes.
pub(super) fn audience_attributes() -> [AttributeDefinition; 2] {
    [
        attribute(AUDIENCE_KEY, ScalarAttributeType::S),
        attribute(REGISTERED_AT, ScalarAttributeType::N),
    ]
}

/// Keys of the index.
pub(super) fn audience_keys() -> [KeySchemaElement; 2] {
    [
        key(AUDIENCE_KEY, KeyType::Hash),
        key(REGISTERED_AT, KeyType::Range),
    ]
}

/// The index holds whole rows, so that a fan-out reads nothing else.
pub(super) fn whole_rows() -> Projection {
    Projection::builder()
        .projection_type(ProjectionType::All)
        .build()
}

fn attribute(name: &str, kind: ScalarAttributeType) -> AttributeDefinition {
    AttributeDefinition::builder()
        .attribute_name(name)
        .attribute_type(kind)
        .build()
        .expect("name and type are set")
}

fn key(name: &str, kind: KeyType) -> KeySchemaElement {
    KeySchemaElement::builder()
        .attribute_name(name)
        .key_type(kind)
        .build()
        .expect("name and kind are set")
}
