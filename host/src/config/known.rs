//! The keys a section knows, asked of the type that reads it, so that there is no second list to keep in step.

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, Visitor, value::Error},
    forward_to_deserialize_any,
};

use super::ConfigError;

/// Refuses the first key of `table` that `T` has no field for. `prefix` stands before the key in the error.
pub fn check<'de, T: Deserialize<'de>>(prefix: &str, table: &toml::Table) -> Result<(), ConfigError> {
    let known = fields::<T>();
    // A type without named fields reads any key.
    if known.is_empty() {
        return Ok(());
    }
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let nearest = known.iter().min_by_key(|candidate| distance(key, candidate)).copied().unwrap_or_default();
            Err(ConfigError::Unknown {
                key: format!("{prefix}{key}"),
                nearest: format!("{prefix}{nearest}"),
                known: known.to_vec(),
            })
        }
    }
}

/// The names of the fields of a struct, as its `Deserialize` asks for them.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // The probe hands no value over, so this always ends in the probe's own error.
    let _ = T::deserialize(Probe(&mut names));
    names
}

struct Probe<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("only the names were asked for"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("not a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Edits (insert, delete, replace, or swap two neighbours) from one word to the other; a shared beginning counts half
/// an edit less, so that `ttl` is nearer to `ttl_ms` than to another word of its length.
fn distance(a: &str, b: &str) -> usize {
    let (x, y): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; y.len() + 1]; x.len() + 1];
    for i in 0..=x.len() {
        for j in 0..=y.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(x[i - 1] != y[j - 1]);
                let swapped = if i > 1 && j > 1 && x[i - 1] == y[j - 2] && x[i - 2] == y[j - 1] {
                    rows[i - 2][j - 2] + 1
                } else {
                    usize::MAX
                };
                replaced.min(swapped).min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1)
            };
        }
    }
    let shared = x.iter().zip(&y).take_while(|(p, q)| p == q).count();
    (2 * rows[x.len()][y.len()]).saturating_sub(shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_the_one_a_reader_would_name() {
        let words = ["listen", "metrics", "workers", "max_body_bytes", "deadline_ms"];
        let nearest = |word: &str| *words.iter().min_by_key(|w| distance(word, w)).unwrap();
        for (typed, meant) in
            [("lisetn", "listen"), ("metric", "metrics"), ("max_body", "max_body_bytes"), ("deadline", "deadline_ms")]
        {
            assert_eq!(nearest(typed), meant);
        }
    }
}
