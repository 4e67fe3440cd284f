//! A panel at the bottom of the terminal: it is drawn again and again in one place, and lines of what happens once go
//! above it and stay there.

use std::io::{self, Stdout};

use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget as _;
use ratatui::{Terminal, TerminalOptions, Viewport};

use super::terminal::Quiet;

/// Width of the names on the left.
pub(crate) const NAME: u16 = 10;
/// Rows that a terminal must have beside the panel.
const ROWS_BESIDE: u16 = 2;

/// A place for a panel on a terminal.
#[derive(Debug)]
pub(crate) struct Inline<B: Backend> {
    terminal: Terminal<B>,
    /// What is typed does not show while the panel lives.
    _quiet: Option<Quiet>,
}

impl Inline<CrosstermBackend<Stdout>> {
    /// A place of so many rows at the bottom of the terminal that standard output is.
    ///
    /// # Errors
    /// If the terminal is too small or does not say where its cursor is.
    pub(crate) fn on_terminal(height: u16, columns_min: u16) -> io::Result<Self> {
        let inline = Self::new(CrosstermBackend::new(io::stdout()), height, columns_min)?;
        Ok(Self { _quiet: Some(Quiet::new()), ..inline })
    }
}

impl<B: Backend<Error: Send + Sync + 'static>> Inline<B> {
    pub(crate) fn new(backend: B, height: u16, columns_min: u16) -> io::Result<Self> {
        let size = backend.size().map_err(io::Error::other)?;
        if size.width < columns_min || size.height < height.saturating_add(ROWS_BESIDE) {
            return Err(io::Error::other("the terminal is too small for the panel"));
        }
        let options = TerminalOptions { viewport: Viewport::Inline(height) };
        let terminal = Terminal::with_options(backend, options).map_err(io::Error::other)?;
        Ok(Self { terminal, _quiet: None })
    }

    #[cfg(test)]
    pub(crate) const fn backend(&self) -> &B {
        self.terminal.backend()
    }

    /// Draws the panel anew.
    pub(crate) fn draw(&mut self, render: impl FnOnce(Rect, &mut Buffer)) -> io::Result<()> {
        self.terminal.draw(|frame| render(frame.area(), frame.buffer_mut())).map_err(io::Error::other).map(drop)
    }

    /// Puts a line above the panel.
    pub(crate) fn above(&mut self, name: &str, text: &str) -> io::Result<()> {
        let width = self.terminal.size().map_err(io::Error::other)?.width.saturating_sub(NAME).max(20);
        let lines = wrapped(text, usize::from(width));
        let warning = name.chars().any(char::is_uppercase);
        let style = if warning { Style::new().fg(Color::Red).bold() } else { Style::new().dim() };
        let height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        let draw = |buffer: &mut Buffer| {
            for (index, line) in lines.iter().enumerate() {
                let name = if index == 0 { name } else { "" };
                let name = Span::styled(format!("{name:<width$}", width = usize::from(NAME)), style);
                let y = buffer.area.y + index as u16;
                Line::from(vec![name, Span::raw(line)]).render(Rect { y, height: 1, ..buffer.area }, buffer);
            }
        };
        self.terminal.insert_before(height, draw).map_err(io::Error::other)
    }

    /// Leaves the panel as it is: what the terminal shows next comes below it.
    pub(crate) fn leave(&mut self) -> io::Result<()> {
        self.terminal.show_cursor().map_err(io::Error::other)?;
        let area = self.terminal.get_frame().area();
        let below = Position { x: 0, y: area.bottom().saturating_sub(1) };
        self.terminal.set_cursor_position(below).map_err(io::Error::other)?;
        self.terminal.backend_mut().append_lines(1).map_err(io::Error::other)?;
        Backend::flush(self.terminal.backend_mut()).map_err(io::Error::other)
    }
}

/// Cuts text into lines at spaces.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        let length = line.chars().count();
        if length > 0 && length + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if length > 0 {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn a_terminal_too_small_for_the_panel_is_refused() {
        assert!(Inline::new(TestBackend::new(59, 30), 8, 60).is_err());
        assert!(Inline::new(TestBackend::new(60, 9), 8, 60).is_err());
        assert!(Inline::new(TestBackend::new(60, 10), 8, 60).is_ok());
    }

    #[test]
    fn long_lines_are_cut_at_spaces() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("unbreakable", 4), ["unbreakable"]);
    }
}
