//! Plain tables, and a screen that is drawn over itself.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether standard output is a terminal that can be drawn over.
pub fn is_screen() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Columns and lines of the terminal; a usual size where there is none.
pub fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (120, 40),
    }
}

/// Rows under headings, each column as wide as its widest cell, trailing spaces cut.
pub fn columns(headings: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = headings.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let head = line(&mut headings.iter().copied());
    std::iter::once(head).chain(rows.iter().map(|row| line(&mut row.iter().map(String::as_str)))).collect()
}

/// A bar of `width` cells, filled to `percent`.
pub fn bar(percent: u8, width: usize) -> String {
    let filled = usize::from(percent.min(100)) * width / 100;
    format!("{}{}", "#".repeat(filled), ".".repeat(width - filled))
}

/// A block of lines at the bottom of the terminal, drawn over itself.
#[derive(Debug, Default)]
pub struct Screen {
    drawn: usize,
}

impl Screen {
    /// Replaces the block. Lines are cut to the terminal, and to as many as fit.
    pub fn draw(&mut self, lines: &[String]) {
        let (width, height) = size();
        let shown = &lines[..lines.len().min(height.saturating_sub(1))];
        let mut out = self.up();
        for line in shown {
            out.extend(harmless(line).chars().take(width));
            // Erase to the end of the line, then go on.
            out.push_str("\x1b[K\n");
        }
        out.push_str("\x1b[J");
        self.drawn = shown.len();
        print(&out);
    }

    /// Prints lines that stay, above the block.
    pub fn say(&mut self, line: &str) {
        let out = format!("{}\x1b[J{}\n", self.up(), harmless(line));
        self.drawn = 0;
        print(&out);
    }

    fn up(&self) -> String {
        if self.drawn == 0 { String::new() } else { format!("\x1b[{}A\r", self.drawn) }
    }
}

/// Prints one line. What machines and others have said in it does not command the terminal.
pub fn line(text: &str) {
    print(&format!("{}\n", harmless(text)));
}

/// Control characters as they would be written in a program; line ends stay.
fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Prints an answer of the API as it is.
pub fn json(value: &impl serde::Serialize) -> Result<(), super::Failure> {
    line(&serde_json::to_string_pretty(value).map_err(super::Failure::from_error)?);
    Ok(())
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader went away (`stoker boots --watch | head`): nobody is left to work for.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => READER_GONE.store(true, Ordering::Relaxed),
        _ => {}
    }
}

/// Whether whoever read our output has gone: an endless command should end.
pub fn reader_gone() -> bool {
    READER_GONE.load(Ordering::Relaxed)
}

static READER_GONE: AtomicBool = AtomicBool::new(false);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_said_does_not_command_the_terminal() {
        assert_eq!(harmless("disk \u{1b}[2Jsda\u{7}\r"), "disk \\u{1b}[2Jsda\\u{7}\\r");
        assert_eq!(harmless("a\tb\nc é"), "a\tb\nc é");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "bb".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(columns(&["X", "Y"], &rows), ["X     Y", "a     bb", "long"]);
        assert_eq!([bar(0, 4), bar(50, 4), bar(100, 4)], ["....", "##..", "####"]);
    }
}
