//! Which shards of a stream may be read: children after parents. Pure.
