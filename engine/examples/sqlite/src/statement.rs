//! What the log carries: SQL with its parameters, as JSON.
//!
//! An entry is one [`Transaction`]: `{"statements":[{"sql":"INSERT INTO t VALUES (?1, ?2)","parameters":[1,"one"]}]}`.
//! A parameter is null, a number, a text, or `{"blob":"00ff"}`; `{"real":"inf"}` and `{"real":"-inf"}` are the two
//! numbers that JSON has no word for.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};

/// Statements that take effect together or not at all.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transaction {
    /// Carried out in this order.
    pub statements: Vec<Statement>,
}

/// One SQL statement.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Its text, with `?1`, `?2` for the parameters.
    pub sql: String,
    /// The parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Value>,
}

/// A value of SQLite.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", into = "serde_json::Value")]
pub enum Value {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// Any number. One that is none (NaN) is null, as in SQLite.
    Real(f64),
    /// A text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Statement {
    /// A statement with parameters.
    pub fn new(sql: impl Into<String>, parameters: impl IntoIterator<Item = Value>) -> Self {
        Self { sql: sql.into(), parameters: parameters.into_iter().collect() }
    }
}

impl Transaction {
    /// A transaction of one statement.
    pub fn one(sql: impl Into<String>, parameters: impl IntoIterator<Item = Value>) -> Self {
        Self { statements: vec![Statement::new(sql, parameters)] }
    }

    /// The bytes of the log's entry.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers always have their JSON")
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// What it says that no transaction can say. All nodes say the same of the same bytes.
    pub fn decode(entry: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(entry).map_err(|error| format!("the entry is no transaction: {error}"))
    }
}

impl TryFrom<serde_json::Value> for Value {
    type Error = String;

    fn try_from(json: serde_json::Value) -> Result<Self, String> {
        let only = |name: &str, map: &serde_json::Map<String, serde_json::Value>| {
            map.get(name).filter(|_| map.len() == 1).and_then(|value| value.as_str()).map(str::to_owned)
        };
        match json {
            serde_json::Value::Null => Ok(Self::Null),
            serde_json::Value::String(text) => Ok(Self::Text(text)),
            serde_json::Value::Number(number) => match (number.as_i64(), number.is_f64(), number.as_f64()) {
                (Some(integer), ..) => Ok(Self::Integer(integer)),
                (None, true, Some(real)) => Ok(Self::Real(real)),
                _ => Err(format!("{number} is larger than SQLite's integers")),
            },
            serde_json::Value::Object(map) => match (only("blob", &map), only("real", &map).as_deref()) {
                (Some(hex), _) => Ok(Self::Blob(bytes_of(&hex).ok_or("a blob must be pairs of hexadecimal digits")?)),
                (_, Some("inf")) => Ok(Self::Real(f64::INFINITY)),
                (_, Some("-inf")) => Ok(Self::Real(f64::NEG_INFINITY)),
                _ => Err(r#"an object must be {"blob":"00ff"}, {"real":"inf"} or {"real":"-inf"}"#.into()),
            },
            other => Err(format!("{other} is no value of SQLite")),
        }
    }
}

impl From<Value> for serde_json::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Integer(integer) => integer.into(),
            Value::Real(real) if real.is_infinite() => {
                serde_json::json!({ "real": if real > 0.0 { "inf" } else { "-inf" } })
            }
            // What is no number has no JSON either: it becomes null.
            Value::Real(real) => real.into(),
            Value::Text(text) => text.into(),
            Value::Blob(bytes) => serde_json::json!({ "blob": hex_of(&bytes) }),
        }
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(integer) => Self::Integer(integer),
            ValueRef::Real(real) => Self::Real(real),
            ValueRef::Text(text) => Self::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(integer) => ValueRef::Integer(*integer),
            Self::Real(real) => ValueRef::Real(*real),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl From<i64> for Value {
    fn from(integer: i64) -> Self {
        Self::Integer(integer)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| <&[u8; 2]>::try_from(pair).ok().and_then(|[a, b]| Some(digit(*a)? << 4 | digit(*b)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_comes_back_as_it_was() {
        let values = [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Integer(i64::MAX),
            Value::Real(0.1 + 0.2),
            Value::Real(5e-324),
            Value::Real(1.0),
            Value::Real(f64::INFINITY),
            Value::Real(f64::NEG_INFINITY),
            Value::Text("it's \"quoted\"\0 \u{1f980}".into()),
            Value::Blob(vec![0, 255, 16]),
            Value::Blob(vec![]),
        ];
        let mut transaction = Transaction::one("INSERT INTO t VALUES (?1)", values);
        transaction.statements.push(Statement::new("DELETE FROM t", []));
        assert_eq!(Transaction::decode(&transaction.encode()), Ok(transaction));
    }

    #[test]
    fn what_is_no_transaction_is_told() {
        let wrong: [&[u8]; 9] = [
            b"",
            b"\xff\xfe",
            b"[]",
            br#"{"statements":[{"sql":"SELECT 1","colour":3}]}"#,
            br#"{"statements":[{"sql":"SELECT ?1","parameters":[true]}]}"#,
            br#"{"statements":[{"sql":"SELECT ?1","parameters":[9223372036854775808]}]}"#,
            br#"{"statements":[{"sql":"SELECT ?1","parameters":[{"blob":"0"}]}]}"#,
            br#"{"statements":[{"sql":"SELECT ?1","parameters":[{"blob":"0g"}]}]}"#,
            br#"{"statements":[]} "#.split_at(16).0,
        ];
        for entry in wrong {
            assert!(Transaction::decode(entry).is_err(), "{}", String::from_utf8_lossy(entry));
        }
        // Deep nesting must not overflow the stack.
        assert!(Transaction::decode("[".repeat(1 << 20).as_bytes()).is_err());
    }
}
