//! Prints the events of streams as this crate reads them, to be compared with what other readers see.
//!
//! Standard input: one stream a line, in hexadecimal. Standard output: one line for each, an array of
//! `[event type, data]`.

#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::io::BufRead as _;

use bytes::Bytes;
use mcp_gateway_core::wire::sse::Splitter;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let stream = (0..line.len() / 2).map(|at| u8::from_str_radix(&line[2 * at..2 * at + 2], 16));
        let mut splitter = Splitter::new(1 << 20);
        splitter.push(stream.collect::<Result<Bytes, _>>()?);
        let mut events = Vec::new();
        while let Some(event) = splitter.next_event()? {
            if event.has_data {
                let kind = event.event.filter(|kind| !kind.is_empty()).unwrap_or(Bytes::from_static(b"message"));
                events.push([String::from_utf8(kind.into())?, String::from_utf8(event.data.into())?]);
            }
        }
        println!("{}", serde_json::to_string(&events)?);
    }
    Ok(())
}
