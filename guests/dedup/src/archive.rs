//! The archive: for each chunk in the input's order, its compressed bytes the
//! first time and its SHA-1 every other time.
//!
//! | record | bytes |
//! |---|---|
//! | content | 1, length of the rest as u32 (little-endian), zlib stream |
//! | repeated | 2, SHA-1 of the content |

use std::collections::BTreeMap;

use flate2::{Decompress, FlushDecompress, Status};
use sha1::{Digest as _, Sha1};

use crate::table::Digest;
use crate::{Error, Result, pipeline};

const CONTENT: u8 = 1;
const REPEATED: u8 = 2;

/// Archives of the same input, pass after pass. The first is kept; each further
/// one has to be the same, byte for byte.
#[derive(Debug, Default)]
pub struct Archive {
    first: Vec<u8>,
    passes: u64,
    at: usize,
}

impl Archive {
    /// Adds a chunk that is new in this pass.
    pub fn content(&mut self, packed: &[u8]) -> Result<()> {
        let length = u32::try_from(packed.len())
            .map_err(|_| Error::Wrong("a chunk of 4 GiB or more".into()))?;
        self.put(&[CONTENT])?;
        self.put(&length.to_le_bytes())?;
        self.put(packed)
    }

    /// Adds a chunk that this pass had before.
    pub fn repeated(&mut self, digest: &Digest) -> Result<()> {
        self.put(&[REPEATED])?;
        self.put(digest)
    }

    /// Ends a pass.
    pub fn end_pass(&mut self) -> Result<()> {
        if self.passes > 0 && self.at != self.first.len() {
            return Err(Error::Wrong("an archive shorter than the first".into()));
        }
        self.passes += 1;
        self.at = 0;
        Ok(())
    }

    /// The first pass's archive.
    pub fn bytes(&self) -> &[u8] {
        &self.first
    }

    /// Passes that have ended.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if self.passes == 0 {
            self.first.extend_from_slice(bytes);
            return Ok(());
        }
        let end = self.at + bytes.len();
        if self.first.get(self.at..end) != Some(bytes) {
            return Err(Error::Wrong(format!(
                "pass {} differs from the first near byte {}",
                self.passes, self.at
            )));
        }
        self.at = end;
        Ok(())
    }
}

/// What was in an archive.
pub struct Unpacked {
    pub data: Vec<u8>,
    /// Bytes of `data` that came from repeated chunks.
    pub duplicate: usize,
}

/// Unpacks an archive; its SHA-1s are computed anew from what comes out.
pub fn unpack(mut archive: &[u8]) -> Result<Unpacked> {
    let mut data = Vec::new();
    let mut duplicate = 0;
    let mut seen = BTreeMap::new();
    while let Some(kind) = take(&mut archive, 1) {
        let from = data.len();
        match kind {
            [CONTENT] => {
                let length = take(&mut archive, 4).and_then(|l| l.try_into().ok());
                let length = u32::from_le_bytes(length.ok_or_else(cut_short)?);
                let packed = take(&mut archive, length as usize).ok_or_else(cut_short)?;
                data.extend_from_slice(&inflate(packed)?);
                let digest: Digest = Sha1::digest(&data[from..]).into();
                seen.insert(digest, from..data.len());
            }
            [REPEATED] => {
                let digest = take(&mut archive, 20).ok_or_else(cut_short)?;
                let range = seen.get(digest).cloned();
                let range = range.ok_or_else(|| Error::Wrong("a SHA-1 of no chunk".into()))?;
                duplicate += range.len();
                data.extend_from_within(range);
            }
            _ => return Err(Error::Wrong("an unknown record".into())),
        }
    }
    Ok(Unpacked { data, duplicate })
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn cut_short() -> Error {
    Error::Wrong("the archive is cut short".into())
}

fn inflate(packed: &[u8]) -> Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(pipeline::LONGEST_CHUNK);
    let end = Decompress::new(true).decompress_vec(packed, &mut chunk, FlushDecompress::Finish);
    match end {
        Ok(Status::StreamEnd) => Ok(chunk),
        Ok(_) => Err(Error::Wrong("a chunk that does not end".into())),
        Err(error) => Err(Error::Wrong(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_pass_must_be_the_same() {
        let mut archive = Archive::default();
        archive.content(b"abc").unwrap();
        archive.end_pass().unwrap();
        archive.content(b"abc").unwrap();
        archive.end_pass().unwrap();
        assert_eq!(archive.passes(), 2);
        assert!(archive.content(b"abd").is_err());
        assert!(archive.end_pass().is_err());
    }

    #[test]
    fn a_damaged_archive_is_noticed() {
        for bad in [
            &[3][..],
            &[CONTENT, 1, 0],
            &[CONTENT, 1, 0, 0, 0, 9],
            &[CONTENT, 255, 255, 255, 255, 9],
            &[REPEATED; 21],
        ] {
            assert!(unpack(bad).is_err(), "{bad:?}");
        }
    }
}
