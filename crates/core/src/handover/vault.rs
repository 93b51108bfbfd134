//! The file in memory that describes what is handed over.
//!
//! A memfd of sealed size: a header of [`HEADER_BYTES`] bytes, then the [`Estate`] as msgpack. The header holds a magic
//! number, the version of the format, the length and checksum of the rest, and the number of attempts to restore it,
//! which successors count up in place and which the checksum therefore leaves out, and the time from which on
//! nobody is served, which is only for the log. Instead of the attempts it says that it was [taken over](spend).

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rmp_serde::decode;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::bequest::Bequest;
use super::parcel::State;
use crate::patience::Obstacle;

/// The version of the format. A successor that finds another one starts without what is in it.
pub(crate) const VERSION: u32 = 1;

/// After so many attempts to restore it, an estate is given up: it may be what kills the successor.
pub(crate) const ATTEMPTS_MAX: u32 = 3;

const MAGIC: [u8; 8] = *b"ringhold";
const HEADER_BYTES: usize = 32;
/// Where the number of attempts is: outside the checksum, after magic (8), version (4), checksum (4) and length (8).
const ATTEMPTS_AT: u64 = 24;

/// As many attempts as nobody makes: what is in the file was taken over, and is not to be once more.
const SPENT: u32 = u32::MAX;

/// Where the time is from which on nobody is served: the last 32 bits of milliseconds on the monotonic clock, 0 if it is not known.
const PAUSED_AT: u64 = 28;

/// The markers of msgpack for an array of three, of four, and for one whose length follows in four bytes.
const ARRAY_OF_3: u8 = 0x93;
const ARRAY_OF_4: u8 = 0x94;
const ARRAY_32: u8 = 0xdd;

/// So much is read from the file at once.
pub(super) const PIECE_BYTES: usize = 64 * 1024;

/// As much as one value of msgpack can have.
const VALUE_BYTES_MAX: usize = u32::MAX as usize;

/// A frame of state larger than this is not believed.
const BODY_BYTES_MAX: u64 = 1 << 40;

/// Everything that is handed over, apart from the descriptors.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Estate {
    /// The service manager keeps the descriptors, too: the successor has to take them out of its store.
    pub(crate) stored: bool,
    pub(crate) listeners: Vec<ListenerRecord>,
    pub(crate) connections: Vec<State>,
    /// By service, in the order of the workers. It is not in the file if nothing is left.
    #[serde(default)]
    pub(crate) bequests: Vec<Bequest>,
}

impl Estate {
    /// How many listeners come with the connections: those that the service manager passes on do not.
    pub(crate) fn handed_listeners(&self) -> usize {
        let listeners = self.listeners.iter();
        listeners.filter(|record| record.bound.is_some()).count()
    }
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListenerRecord {
    /// The kernel's name of the socket (SO_COOKIE), which no other socket has until the next boot.
    pub(crate) cookie: u64,
    /// The name of its section.
    pub(crate) name: String,
    /// Where we bound it, in the notation of the configuration; `None` if it was inherited from the service manager.
    pub(crate) bound: Option<String>,
    /// The path that we made for it: the path, its device and its inode.
    pub(crate) path: Option<(String, u64, u64)>,
}

/// Why an estate cannot be read.
#[derive(Debug)]
pub(crate) enum VaultError {
    /// There is none.
    Missing,
    /// It is not such a file.
    NotOurs,
    /// It was written by a program that writes another format.
    Version(u32),
    /// The checksum is wrong, or what it covers makes no sense.
    Damaged(String),
    /// Somebody has taken over what it describes.
    Spent,
    /// It was tried too often.
    TriedTooOften(u32),
    /// The file cannot be read or written.
    Io(io::Error),
}

impl fmt::Display for VaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VaultError::Missing => f.write_str("there is no stored state"),
            VaultError::NotOurs => f.write_str("the stored state is not ringhold's"),
            VaultError::Version(found) => write!(
                f,
                "the stored state has format version {found}, this program reads version {VERSION}"
            ),
            VaultError::Damaged(what) => write!(f, "the stored state is damaged: {what}"),
            VaultError::Spent => f.write_str("the stored state was taken over before"),
            VaultError::TriedTooOften(attempts) => write!(
                f,
                "restoring the stored state was tried {attempts} times without success"
            ),
            VaultError::Io(error) => write!(f, "the stored state cannot be read: {error}"),
        }
    }
}

impl Obstacle for VaultError {
    fn may_pass(&self) -> bool {
        matches!(self, VaultError::Io(error) if error.may_pass())
    }
}

impl From<io::Error> for VaultError {
    fn from(error: io::Error) -> Self {
        VaultError::Io(error)
    }
}

/// An estate that is being written into a new memfd, connection by connection: what they hold need not be there twice.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    /// Where the number of connections is, which is known in the end.
    count_at: u64,
    connections: u32,
    has_bequests: bool,
    /// The end of what counts.
    end: u64,
}

impl Writer {
    /// Begins with the listeners.
    pub(crate) fn new(listeners: &[ListenerRecord]) -> io::Result<Self> {
        let mut head = vec![0; HEADER_BYTES];
        // The fields of an `Estate`, one after the other. In the end it has one more if something is left, and it is known whether it
        // is stored.
        head.push(ARRAY_OF_3);
        encode(&mut head, &false)?;
        encode(&mut head, listeners)?;
        head.push(ARRAY_32);
        let count_at = head.len() as u64;
        head.extend_from_slice(&[0; 4]);

        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("ringhold-state", flags)?);
        file.write_all_at(&head, 0)?;
        Ok(Writer {
            file,
            count_at,
            connections: 0,
            has_bequests: false,
            end: head.len() as u64,
        })
    }

    /// Adds connections, each of which is dropped as soon as it is written. On failure none of them was added.
    pub(crate) fn add(&mut self, records: Vec<State>) -> io::Result<()> {
        debug_assert!(!self.has_bequests, "they are the last part");
        let count = records.len() as u32;
        self.append(&[], records)?;
        self.connections += count;
        Ok(())
    }

    /// Adds what services leave, if they leave anything, behind the last connection. On failure nothing was added.
    pub(crate) fn leave(&mut self, bequests: Vec<Bequest>) -> io::Result<()> {
        if let Some(large) = bequests.iter().find(|it| it.bytes.len() > VALUE_BYTES_MAX) {
            return Err(io::Error::other(format!(
                "service {} leaves {} bytes on one worker, and {VALUE_BYTES_MAX} is the most",
                large.service,
                large.bytes.len()
            )));
        }
        if !bequests.is_empty() {
            let mut head = [ARRAY_32, 0, 0, 0, 0];
            head[1..].copy_from_slice(&(bequests.len() as u32).to_be_bytes());
            self.append(&head, bequests)?;
            self.has_bequests = true;
        }
        Ok(())
    }

    fn append(&mut self, head: &[u8], records: Vec<impl Serialize>) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.end))?;
        let mut out = BufWriter::new(file);
        out.write_all(head)?;
        for record in records {
            encode(&mut out, &record)?;
        }
        out.flush()?;
        self.end = file.stream_position()?;
        Ok(())
    }

    /// How long the file is.
    pub(crate) fn bytes(&self) -> u64 {
        self.end
    }

    /// From now on, adding more than there is room for fails.
    #[cfg(test)]
    pub(crate) fn forbid_growth(&self) {
        fcntl_add_seals(&self.file, SealFlags::GROW).unwrap();
    }

    /// Leaves what was added, with a header, and whether the service manager will keep it.
    pub(crate) fn finish(self, stored: bool) -> io::Result<OwnedFd> {
        self.file.set_len(self.end)?;
        self.file
            .write_all_at(&self.connections.to_be_bytes(), self.count_at)?;
        let fields = match self.has_bequests {
            true => ARRAY_OF_4,
            false => ARRAY_OF_3,
        };
        let mut head = vec![fields];
        encode(&mut head, &stored)?;
        self.file.write_all_at(&head, HEADER_BYTES as u64)?;
        seal(self.file)
    }
}

/// Writes the header of a file that is complete otherwise.
fn seal(file: File) -> io::Result<OwnedFd> {
    let length = file.metadata()?.len() - HEADER_BYTES as u64;
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_be_bytes());
    header[12..16].copy_from_slice(&checksum(&file)?.to_be_bytes());
    header[16..24].copy_from_slice(&length.to_be_bytes());
    file.write_all_at(&header, 0)?;
    // The size is fixed from here on; the attempts are still to be counted.
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

fn encode(out: &mut impl Write, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    rmp_serde::encode::write(out, value).map_err(|error| match error {
        rmp_serde::encode::Error::InvalidValueWrite(error) => error.into(),
        error => io::Error::other(error),
    })
}

/// The checksum of everything behind the header.
fn checksum(mut file: &File) -> io::Result<u32> {
    let mut sum = crc32fast::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    file.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(sum.finalize()),
            Ok(count) => sum.update(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Counts an attempt, then reads the estate. The count is in the file before anything is read, so that an estate which
/// kills its reader is given up in the end. One that [may pass](Obstacle) is taken back.
pub(crate) fn read(vault: &OwnedFd) -> Result<Estate, VaultError> {
    let file = File::from(vault.try_clone()?);
    let mut header = [0; HEADER_BYTES];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(VaultError::NotOurs);
        }
        Err(error) => return Err(error.into()),
    }
    let word = |at| word_of(&header, at);
    if header[..8] != MAGIC {
        return Err(VaultError::NotOurs);
    }
    if word(8) != VERSION {
        return Err(VaultError::Version(word(8)));
    }
    let attempts = word(ATTEMPTS_AT as usize);
    if attempts == SPENT {
        return Err(VaultError::Spent);
    }
    if attempts >= ATTEMPTS_MAX {
        return Err(VaultError::TriedTooOften(attempts));
    }
    file.write_all_at(&(attempts + 1).to_be_bytes(), ATTEMPTS_AT)?;
    let estate = read_body(file, &header);
    if let Err(error) = &estate
        && error.may_pass()
    {
        // What is counted too often is given up too early, which is better than now.
        let _ = uncount(vault);
    }
    estate
}

/// The estate behind this header.
fn read_body(mut file: File, header: &[u8; HEADER_BYTES]) -> Result<Estate, VaultError> {
    let word = |at| word_of(header, at);
    let length = u64::from(word(16)) << 32 | u64::from(word(20));
    let size = file.metadata()?.len();
    if length > BODY_BYTES_MAX || size != length + HEADER_BYTES as u64 {
        return Err(VaultError::Damaged(format!(
            "{length} bytes announced in a file of {size}"
        )));
    }
    // First all of it is looked at, then it is read record by record: it need not be in memory twice.
    if checksum(&file)? != word(12) {
        return Err(VaultError::Damaged("the checksum is wrong".into()));
    }
    file.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
    rmp_serde::from_read(BufReader::with_capacity(PIECE_BYTES, file)).map_err(undecodable)
}

fn word_of(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// Why there is no estate where the checksum was right.
fn undecodable(error: decode::Error) -> VaultError {
    match error {
        decode::Error::InvalidMarkerRead(error) | decode::Error::InvalidDataRead(error)
            if error.raw_os_error().is_some() =>
        {
            VaultError::Io(error)
        }
        error => VaultError::Damaged(error.to_string()),
    }
}

/// Notes since when nobody is served.
pub(crate) fn note_pause(vault: &OwnedFd, since: Instant) -> io::Result<()> {
    let elapsed = since.elapsed().as_millis() as u64;
    let at = monotonic_ms().wrapping_sub(elapsed) as u32;
    File::from(vault.try_clone()?).write_all_at(&at.max(1).to_be_bytes(), PAUSED_AT)
}

/// Since when nobody is served, if it was noted. Of a pause of more than 49 days only the rest is known, for want of bytes.
pub(crate) fn paused(vault: &OwnedFd) -> Option<Instant> {
    let mut at = [0; 4];
    let file = File::from(vault.try_clone().ok()?);
    file.read_exact_at(&mut at, PAUSED_AT).ok()?;
    let at = Some(u32::from_be_bytes(at)).filter(|at| *at != 0)?;
    let elapsed = (monotonic_ms() as u32).wrapping_sub(at);
    Instant::now().checked_sub(Duration::from_millis(elapsed.into()))
}

fn monotonic_ms() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither is negative.
    (time.tv_sec as u64) * 1_000 + (time.tv_nsec as u64) / 1_000_000
}

/// Has it read by nobody any more, whoever has it.
pub(crate) fn spend(vault: &OwnedFd) -> io::Result<()> {
    File::from(vault.try_clone()?).write_all_at(&SPENT.to_be_bytes(), ATTEMPTS_AT)
}

/// How many attempts were counted.
pub(crate) fn attempts(vault: &OwnedFd) -> io::Result<u32> {
    let mut attempts = [0; 4];
    File::from(vault.try_clone()?).read_exact_at(&mut attempts, ATTEMPTS_AT)?;
    Ok(u32::from_be_bytes(attempts))
}

/// Takes the last count of an attempt back.
pub(crate) fn uncount(vault: &OwnedFd) -> io::Result<()> {
    let attempts = attempts(vault)?.saturating_sub(1);
    File::from(vault.try_clone()?).write_all_at(&attempts.to_be_bytes(), ATTEMPTS_AT)
}

#[cfg(test)]
mod tests;
