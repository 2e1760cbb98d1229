//! The record of repairs in a node's directory: JSON, one object per line, only ever added to.

use std::fmt::Write;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Write as _};
use std::path::Path;

/// The record's name in a directory.
pub(crate) const RECORD: &str = "repairs.jsonl";
/// How the line of a repair begins; the lines of its groups begin otherwise.
const REPAIR: &str = "{\"repair\":";
/// What is read of a line.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// A text in quotes.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if (control as u32) < 0x20 => write!(out, "\\u{:04x}", control as u32).expect("strings grow"),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// A time in seconds since 1970, as people write it.
pub(crate) fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years from March on, so that the odd day comes last; eras of 400 years have equal lengths.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The first line of a repair's record; the others are its groups.
pub(crate) fn head(fields: &str) -> String {
    format!("{REPAIR}{fields}}}")
}

/// Writes the record of a new directory: what the old one had, and `lines` behind it. Durable with its directory.
pub(crate) fn write(old: &Path, new: &Path, lines: &[String]) -> io::Result<()> {
    let file = new.join(RECORD);
    match fs::copy(old.join(RECORD), &file) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut record = OpenOptions::new().create(true).append(true).open(&file)?;
    for line in lines {
        record.write_all(line.as_bytes())?;
        record.write_all(b"\n")?;
    }
    record.sync_all()
}

/// The repairs that a directory has gone through: the first line of each, cut short.
pub(crate) fn repairs(dir: &Path) -> io::Result<Vec<String>> {
    let file = match File::open(dir.join(RECORD)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut repairs = Vec::new();
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut begins = true;
    loop {
        line.clear();
        // A longer line comes in pieces.
        if io::Read::take(&mut reader, LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(repairs);
        }
        if begins && line.starts_with(REPAIR.as_bytes()) {
            repairs.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        begins = line.ends_with(b"\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_do() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn a_record_is_only_added_to() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir(&old).unwrap();
        fs::create_dir(&new).unwrap();
        assert!(repairs(&old).unwrap().is_empty());
        write(&new, &old, &[head("1"), "{\"group\":1}".into()]).unwrap();
        write(&old, &new, &[head(&quoted("a\"b\\\n")), "x".repeat(200_000), head("3")]).unwrap();
        let told = repairs(&new).unwrap();
        assert_eq!(told, ["{\"repair\":1}", "{\"repair\":\"a\\\"b\\\\\\u000a\"}", "{\"repair\":3}"]);
        assert_eq!(repairs(&old).unwrap().len(), 1);
    }
}
