//! The archive that `torch.save` writes: a zip file of stored entries, read without a zip library.
//!
//! Only what torch writes is read: entries that are not compressed, named once, inside the file, and no
//! zip64. A compressed entry can claim any size, an overlapping one can be read twice; neither is needed.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};

const END: [u8; 4] = *b"PK\x05\x06";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
/// Most entries: one a tensor; a model of more is no SAE.
const MOST_ENTRIES: usize = 20_000;
/// Bytes behind the end record: its comment, at most 65,535 long.
const COMMENT: usize = 65_535;

/// Entries of an archive, by name.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    entries: BTreeMap<String, &'a [u8]>,
}

impl<'a> Archive<'a> {
    /// Reads the directory.
    pub(super) fn read(bytes: &'a [u8]) -> anyhow::Result<Self> {
        let from = bytes.len().saturating_sub(22 + COMMENT);
        let at = (from..bytes.len().saturating_sub(21)).rev().find(|at| bytes[*at..].starts_with(&END));
        let end = &bytes[at.context("no directory at its end: it is cut off, or no archive")?..];
        let n_entries = usize::from(short(end, 10)?);
        let start = long(end, 16)?;
        ensure!(n_entries < 0xFFFF && start < 0xFFFF_FFFF, "zip64: expected an archive below 4 GiB");
        ensure!(n_entries <= MOST_ENTRIES, "expected at most {MOST_ENTRIES} entries, found {n_entries}");
        let mut entries = BTreeMap::new();
        let mut spans = Vec::new();
        let mut at = start as usize;
        for _ in 0..n_entries {
            let header = bytes.get(at..).filter(|header| header.starts_with(&CENTRAL)).context("a directory entry is cut off")?;
            ensure!(short(header, 10)? == 0, "an entry is compressed: torch stores its entries as they are");
            ensure!(short(header, 8)? & 1 == 0, "an entry is encrypted");
            let (packed, size) = (long(header, 20)?, long(header, 24)?);
            ensure!(packed == size, "an entry of {packed} bytes claims to be {size} bytes long");
            let (name_len, extra_len, comment_len) = (short(header, 28)?, short(header, 30)?, short(header, 32)?);
            let name = header.get(46..46 + usize::from(name_len)).context("a name is cut off")?;
            let name = std::str::from_utf8(name).context("a name is no UTF-8")?.to_owned();
            let local_at = long(header, 42)? as usize;
            let local = bytes.get(local_at..).filter(|local| local.starts_with(&LOCAL)).context("an entry lies outside the file")?;
            let data_at = local_at + 30 + usize::from(short(local, 26)?) + usize::from(short(local, 28)?);
            let data = bytes
                .get(data_at..data_at + size as usize)
                .with_context(|| format!("entry {name:?} claims {size} bytes, the file has fewer"))?;
            spans.push((local_at, data_at + size as usize));
            ensure!(entries.insert(name.clone(), data).is_none(), "entry {name:?} stands there twice");
            at += 46 + usize::from(name_len) + usize::from(extra_len) + usize::from(comment_len);
        }
        spans.sort_unstable();
        ensure!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "two entries overlap");
        Ok(Self { entries })
    }

    /// The pickle, and the folder its storages lie in.
    pub(super) fn pickle(&self) -> anyhow::Result<(&str, &'a [u8])> {
        let mut found = self.entries.iter().filter(|(name, _)| name.ends_with("/data.pkl"));
        let (name, bytes) = found.next().context("no data.pkl: it is an archive, but torch did not write it")?;
        ensure!(found.next().is_none(), "two data.pkl: expected one");
        let folder = name.trim_end_matches("data.pkl");
        ensure!(folder.matches('/').count() == 1, "data.pkl lies in {folder:?}, expected one folder deep");
        if let Some(order) = self.entries.get(&format!("{folder}byteorder")) {
            ensure!(*order == b"little", "byte order {:?}, expected little", String::from_utf8_lossy(order));
        }
        Ok((folder, bytes))
    }

    /// The bytes of a storage.
    pub(super) fn storage(&self, folder: &str, key: &str) -> anyhow::Result<&'a [u8]> {
        match self.entries.get(&format!("{folder}data/{key}")) {
            Some(bytes) => Ok(bytes),
            None => bail!("the pickle names a storage {key:?} that the archive does not have"),
        }
    }
}

fn short(bytes: &[u8], at: usize) -> anyhow::Result<u16> {
    let pair = bytes.get(at..at + 2).and_then(|pair| pair.try_into().ok()).context("a header is cut off")?;
    Ok(u16::from_le_bytes(pair))
}

fn long(bytes: &[u8], at: usize) -> anyhow::Result<u32> {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).context("a header is cut off")?;
    Ok(u32::from_le_bytes(four))
}
