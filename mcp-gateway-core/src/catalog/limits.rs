//! The bounds of a catalog.

/// How large a catalog, a file and an entry may be. Each excess is an error that names the bound.
#[derive(Debug)]
pub struct CatalogLimits;

impl CatalogLimits {
    /// Files of a directory.
    pub const FILES: usize = 1_000;
    /// Folders below each other.
    pub const FOLDER_DEPTH: usize = 16;
    /// Bytes of a file.
    pub const FILE: usize = 1024 * 1024;
    /// Bytes of an entry, written as JSON: it must fit into a record with its secrets sealed.
    pub const ENTRY: usize = 128 * 1024;
    /// Bad entries of one file that are named one by one; more, and the rest of the file is given up.
    pub const ERRORS: usize = 32;
    /// Bytes of an entry's id: an RFC 1123 label.
    pub const ID: usize = 63;
    /// Bytes of a name.
    pub const NAME: usize = 256;
    /// Bytes of a URL.
    pub const URL: usize = 2_048;
    /// Bytes of an OAuth scope.
    pub const SCOPE: usize = 256;
    /// Arguments of a program, variables of an environment, headers, sub-paths and the like, each.
    pub const ITEMS: usize = 128;
    /// Bytes of an argument, of a variable's value, of a header's value.
    pub const VALUE: usize = 16 * 1024;
    /// Seconds that a start may take, at most.
    pub const STARTUP_SECONDS: u64 = 600;
    /// Seconds that a start may take, when the entry says nothing.
    pub const DEFAULT_STARTUP_SECONDS: u64 = 60;
    /// Seconds without use before a server is stopped, at least.
    pub const SHORTEST_IDLE_SECONDS: u64 = 10;
    /// Seconds without use before a server is stopped, at most.
    pub const LONGEST_IDLE_SECONDS: u64 = 7 * 24 * 3_600;
    /// Seconds without use before a server is stopped, when the entry says nothing.
    pub const DEFAULT_IDLE_SECONDS: u64 = 600;
}
