//! The bytes of a model file, mapped into memory.

use std::{
    fs::File,
    io,
    ops::{Deref, Range},
    path::Path,
};

use memmap2::{Mmap, UncheckedAdvice};

/// A file's bytes. They are read from the disk when they are looked at.
pub(crate) enum Mapped {
    File(Mmap),
    #[cfg(test)]
    Owned(Vec<u8>),
}

impl Mapped {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        // SAFETY: the mapping is read-only and private to this process. Another process that truncates the file while
        // it is mapped would end this one with SIGBUS; model files are replaced by renaming, never written in place.
        Ok(Self::File(unsafe { Mmap::map(&file)? }))
    }

    /// Gives the pages of a range back to the system. They are read from the file again if they are looked at again.
    pub fn forget(&self, range: Range<usize>) {
        let map = match self {
            Self::File(map) if !range.is_empty() && range.end <= map.len() => map,
            _ => return,
        };
        // SAFETY: the pages mirror a file and are never written to, so that dropped ones come back as they were.
        let advised = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        if let Err(error) = advised {
            tracing::debug!(%error, "mapped pages could not be given back");
        }
    }
}

impl Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::File(map) => map,
            #[cfg(test)]
            Self::Owned(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgotten_pages_come_back_as_they_were() -> io::Result<()> {
        let path = std::env::temp_dir().join(format!("littoral-mapped-{}", std::process::id()));
        let content: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
        std::fs::write(&path, &content)?;
        let map = Mapped::open(&path)?;
        assert_eq!(map[..], content);
        for range in [0..100_000, 5000..5001, 4096..8192, 0..0, 99_999..100_000, 0..200_000] {
            map.forget(range);
            assert_eq!(map[..], content);
        }
        std::fs::remove_file(&path)?;
        assert!(Mapped::open(&path).is_err() && Mapped::open(&std::env::temp_dir()).is_err());
        Ok(())
    }
}
