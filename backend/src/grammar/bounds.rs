//! What a schema may ask for at most. llguidance joins the patterns and the divisors of `allOf` before it counts what that
//! costs, and that grows with their product; so they are counted here first.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Patterns and formats that one text may have to match together. Each doubles the work; twelve take 70 ms.
const PATTERNS: u64 = 12;
/// The product of the divisors that one number may have to have, each without its zeros at the end: the grammar of a
/// multiple has as many states.
const DIVISOR: u64 = 10_000;
/// Patterns of names in one object: each is held against each.
const NAMES: usize = 64;
/// Schemas within schemas, references followed.
const DEPTH: usize = 512;

/// Refuses a schema whose grammar would take too long to make; says why.
pub fn check(schema: &Value) -> Result<(), String> {
    Walk { whole: schema, targets: HashMap::new(), depth: 0 }.weigh(schema).map(drop)
}

/// What a value may have to satisfy together.
#[derive(Debug, Clone, Copy)]
struct Joined {
    patterns: u64,
    divisor: u64,
}

impl Joined {
    const NOTHING: Self = Self { patterns: 0, divisor: 1 };

    fn and(self, other: Self) -> Self {
        Self {
            patterns: self.patterns.saturating_add(other.patterns),
            divisor: self.divisor.saturating_mul(other.divisor),
        }
    }

    fn or(self, other: Self) -> Self {
        Self { patterns: self.patterns.max(other.patterns), divisor: self.divisor.max(other.divisor) }
    }
}

struct Walk<'a> {
    whole: &'a Value,
    /// What the targets of references weigh; nothing as long as they are being weighed.
    targets: HashMap<&'a str, Joined>,
    depth: usize,
}

impl<'a> Walk<'a> {
    /// The most that any value of this schema, at any depth, may have to satisfy: never too little. What stands beside
    /// `allOf` and `$ref` is joined with it, whether or not it is of the same value.
    fn weigh(&mut self, schema: &'a Value) -> Result<Joined, String> {
        if self.depth == DEPTH {
            return Err(format!("schemas are nested in more than {DEPTH} others, references followed"));
        }
        self.depth += 1;
        let weight = self.weigh_here(schema);
        self.depth -= 1;
        weight
    }

    fn weigh_here(&mut self, schema: &'a Value) -> Result<Joined, String> {
        let map = match schema {
            Value::Object(map) => map,
            Value::Array(options) => {
                return options.iter().try_fold(Joined::NOTHING, |most, option| Ok(most.or(self.weigh(option)?)));
            }
            _ => return Ok(Joined::NOTHING),
        };
        let mut all = own(map);
        let mut most = Joined::NOTHING;
        for (key, value) in map {
            match (key.as_str(), value) {
                ("allOf", Value::Array(parts)) => {
                    for part in parts {
                        all = all.and(self.weigh(part)?);
                    }
                }
                ("$ref", Value::String(target)) => all = all.and(self.target(target)?),
                // Names, not keywords, hold the schemas here.
                ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(named)) => {
                    if key == "patternProperties" && named.len() > NAMES {
                        let count = named.len();
                        return Err(format!("'patternProperties' may have up to {NAMES} patterns, not {count}"));
                    }
                    for schema in named.values() {
                        most = most.or(self.weigh(schema)?);
                    }
                }
                // Values, not schemas.
                ("enum" | "const" | "default" | "examples", _) => {}
                _ => most = most.or(self.weigh(value)?),
            }
        }
        let joined = all.and(most);
        if joined.patterns > PATTERNS {
            return Err(format!(
                "more than {PATTERNS} patterns and formats are joined by 'allOf': please write fewer, or one that says all"
            ));
        }
        if joined.divisor > DIVISOR {
            return Err(format!("'multipleOf' may be up to {DIVISOR}, zeros at the end aside, joined ones together"));
        }
        Ok(joined)
    }

    fn target(&mut self, target: &'a str) -> Result<Joined, String> {
        let found = target.strip_prefix('#').and_then(|path| self.whole.pointer(path));
        // One that is not found by its path has a name; the whole schema weighs no less.
        let (target, schema) = found.map_or(("", self.whole), |schema| (target, schema));
        if let Some(known) = self.targets.get(target) {
            return Ok(*known);
        }
        self.targets.insert(target, Joined::NOTHING);
        let weight = self.weigh(schema)?;
        self.targets.insert(target, weight);
        Ok(weight)
    }
}

fn own(map: &Map<String, Value>) -> Joined {
    let patterns = ["pattern", "format"].iter().filter(|key| map.contains_key(**key)).count() as u64;
    let divisor = match map.get("multipleOf") {
        Some(Value::Number(divisor)) => digits(&divisor.to_string()),
        _ => 1,
    };
    Joined { patterns, divisor }
}

/// A number without its sign, its point, its exponent and its zeros at either end.
fn digits(number: &str) -> u64 {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    match digits.trim_matches('0') {
        "" => 1,
        digits => digits.parse().unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patterns(count: usize) -> Vec<Value> {
        (0..count).map(|i| json!({"pattern": format!(".*{i}.*")})).collect()
    }

    #[test]
    fn what_people_ask_for_is_let_through() {
        let many: Map<String, Value> = (0..500)
            .map(|i| (format!("p{i}"), json!({"type": "string", "pattern": "^a+$", "format": "uri"})))
            .collect();
        let tree = json!({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {
            "pattern": {"type": "string", "pattern": "^x"}, "allOf": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
        }}}});
        for schema in [
            json!({"type": "object", "properties": many}),
            json!({"anyOf": patterns(50)}),
            json!({"type": "string", "allOf": patterns(PATTERNS as usize)}),
            json!({"enum": [{"allOf": patterns(50)}]}),
            json!({"type": "number", "multipleOf": 0.01, "allOf": [{"multipleOf": 2500}, {"multipleOf": 1e-7}]}),
            tree,
            json!(true),
        ] {
            assert_eq!(check(&schema), Ok(()), "{schema}");
        }
    }

    #[test]
    fn what_would_grow_without_end_is_refused_wherever_it_stands() {
        let many = PATTERNS as usize + 1;
        let doubled: Map<String, Value> = (0..5)
            .map(|i| {
                let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
                (format!("d{i}"), json!({"allOf": [next, next]}))
            })
            .chain([("d5".to_string(), json!({"pattern": "a"}))])
            .collect();
        let chain: Map<String, Value> =
            (0..100_000).map(|i| (format!("d{i}"), json!({"$ref": format!("#/$defs/d{}", i + 1)}))).collect();
        let names: Map<String, Value> = (0..=NAMES).map(|i| (format!("^{i}"), json!({}))).collect();
        for schema in [
            json!({"type": "string", "allOf": patterns(many)}),
            json!({"items": {"properties": {"enum": {"allOf": patterns(many)}}}}),
            json!({"pattern": "a", "format": "uri", "allOf": [{"allOf": patterns(6)}, {"anyOf": [{"allOf": patterns(6)}]}]}),
            json!({"$ref": "#/$defs/d0", "$defs": doubled}),
            json!({"$ref": "name", "$defs": {"a": {"$id": "name", "allOf": patterns(7)}}, "allOf": patterns(7)}),
            json!({"type": "object", "patternProperties": names}),
            json!({"$ref": "#/$defs/d0", "$defs": chain}),
            json!({"type": "integer", "multipleOf": 999_983}),
            json!({"allOf": [{"multipleOf": 997}, {"multipleOf": 0.991}]}),
        ] {
            assert!(check(&schema).is_err(), "{schema}");
        }
    }
}
