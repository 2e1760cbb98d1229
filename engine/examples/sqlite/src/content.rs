//! A hash over all that a database holds: equal databases have equal ones, whatever their pages look like.

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde::{Deserialize, Serialize};

use crate::database;

/// What a database holds, in short.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Content {
    /// The last entry whose effect it has.
    pub applied: u64,
    /// Over the schema and all rows of all tables in order, the replication's own among them: 128 bits as hexadecimal
    /// digits. It finds what differs by mistake, not by malice.
    pub hash: String,
    /// Rows in all tables.
    pub rows: u64,
}

impl Content {
    /// That of a database, as it stands now.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn of(connection: &mut Connection) -> rusqlite::Result<Self> {
        // One view for all tables.
        let view = connection.transaction()?;
        let applied = database::applied(&view)?;
        let mut hash = Hash::default();
        // Page numbers are no content.
        let schema = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name";
        hash.add_rows(&view, schema)?;
        let tables: Vec<String> = {
            let mut select = view.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
            select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
        };
        let mut rows = 0;
        for table in tables {
            hash.add(&[0xff]);
            rows += hash.add_rows(&view, &select_all(&view, &table)?)?;
        }
        Ok(Self { applied, hash: format!("{:032x}", hash.0), rows })
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A query of all rows in the order of the table's key.
fn select_all(view: &Connection, table: &str) -> rusqlite::Result<String> {
    let without_rowid: bool =
        view.query_row("SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1", [table], |row| {
            row.get(0)
        })?;
    let columns: Vec<(String, i64)> = {
        let mut select = view.prepare("SELECT name, pk FROM pragma_table_xinfo(?1)")?;
        select.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?
    };
    let from = quoted(table);
    let free = |name: &&str| !columns.iter().any(|(column, _)| column.eq_ignore_ascii_case(name));
    Ok(match ["rowid", "_rowid_", "oid"].into_iter().find(free) {
        Some(rowid) if !without_rowid => format!("SELECT {rowid}, * FROM {from} ORDER BY {rowid}"),
        _ => {
            // The key; where columns have taken all names of the rowid, all columns.
            let mut key: Vec<_> = columns.iter().filter(|(_, pk)| *pk > 0).collect();
            key.sort_by_key(|(_, pk)| *pk);
            let all: Vec<_> = columns.iter().collect();
            let order = if without_rowid { key } else { all };
            let order: Vec<String> =
                order.iter().map(|(column, _)| format!("{} COLLATE BINARY", quoted(column))).collect();
            format!("SELECT * FROM {from} ORDER BY {}", order.join(", "))
        }
    })
}

/// FNV-1a of 128 bits.
struct Hash(u128);

impl Default for Hash {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    fn add_value(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => self.add(&[0]),
            ValueRef::Integer(integer) => {
                self.add(&[1]);
                self.add(&integer.to_le_bytes());
            }
            ValueRef::Real(real) => {
                self.add(&[2]);
                self.add(&real.to_bits().to_le_bytes());
            }
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                self.add(&[if matches!(value, ValueRef::Text(_)) { 3 } else { 4 }]);
                self.add(&(bytes.len() as u64).to_le_bytes());
                self.add(bytes);
            }
        }
    }

    fn add_rows(&mut self, view: &Connection, select: &str) -> rusqlite::Result<u64> {
        let mut select = view.prepare(select)?;
        let columns = select.column_count();
        let (mut rows, mut count) = (select.raw_query(), 0);
        while let Some(row) = rows.next()? {
            self.add(&[5]);
            for column in 0..columns {
                self.add_value(row.get_ref(column)?);
            }
            count += 1;
        }
        Ok(count)
    }
}
