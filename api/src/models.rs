//! `GET /models` and `GET /models/{id}`.

use bytes::Bytes;
use littoral_core::document;

/// The list of (name, created in Unix seconds), in the order given.
pub fn list<'a>(models: impl IntoIterator<Item = (&'a str, u64)>) -> Bytes {
    document::models(models).into()
}

/// One model.
pub fn one(name: &str, created: u64) -> Bytes {
    document::model(name, created).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_two_and_of_none() {
        let expected = concat!(
            r#"{"object":"list","data":[{"id":"a","object":"model","created":1,"owned_by":"littoral"},"#,
            r#"{"id":"b","object":"model","created":2,"owned_by":"littoral"}]}"#
        );
        assert_eq!(list([("a", 1), ("b", 2)]), expected);
        assert_eq!(list([]), r#"{"object":"list","data":[]}"#);
        assert_eq!(one("a", 1), r#"{"id":"a","object":"model","created":1,"owned_by":"littoral"}"#);
    }
}
