//! What a devnet shows: one table, drawn again and again on a terminal, in lines now and then elsewhere, as JSON for
//! scripts.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

use neuroshard_host::status::Status;
use ratatui::backend::Backend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Widget as _};
use serde::Serialize;

use super::node::{Node, State};
use super::{Options, push_loss};
use crate::display::{Inline, count, grouped, sparkline};

/// A narrower terminal gets plain lines.
const COLUMNS_MIN: u16 = 80;
/// Rows of the panel beside those of the nodes: two borders, the header, the losses.
const ROWS_BESIDE: u16 = 4;
/// Least time between two tables in plain lines, and between two lines of JSON.
const TABLE_EVERY: Duration = Duration::from_secs(5);
const JSON_EVERY: Duration = Duration::from_millis(500);

/// A node as the table has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) number: usize,
    pub(super) node: Option<String>,
    pub(super) pid: Option<u32>,
    /// `waits`, `starts`, `runs`, `gone` or `done`.
    pub(super) state: &'static str,
    /// Why it is gone.
    pub(super) why: Option<String>,
    pub(super) throttle: String,
    pub(super) tier: Option<String>,
    pub(super) mode: Option<String>,
    pub(super) mode_reason: Option<String>,
    pub(super) quorum: Option<String>,
    /// Members of that quorum.
    pub(super) members: Option<u64>,
    pub(super) stages: Option<String>,
    /// How often its members began together, and from which step the last time.
    pub(super) term: Option<u64>,
    pub(super) began_at_step: Option<u64>,
    pub(super) step: Option<u64>,
    /// Nats per token.
    pub(super) loss: Option<f64>,
    pub(super) peers: Option<usize>,
    pub(super) height: Option<u64>,
}

impl Row {
    fn new(node: &Node, options: &Options) -> Self {
        let why = match &node.state {
            State::Gone { why, .. } => Some(why.clone()),
            _ => None,
        };
        let row = Self {
            number: node.number,
            pid: node.pid,
            state: node.state.word(),
            why,
            throttle: options.throttle(node.number).to_string(),
            ..Self::default()
        };
        let Some(status) = &node.status else { return row };
        let row = Self { node: Some(status.node.clone()), tier: status.tier.clone(), step: Some(status.step), ..row };
        if node.state != State::Runs {
            return row;
        }
        let quorum = status.quorum.as_ref();
        Self {
            mode: status.mode.clone(),
            mode_reason: status.mode_reason.clone(),
            quorum: quorum.map(|quorum| quorum.quorum.clone()),
            members: quorum.map(|quorum| quorum.members),
            stages: quorum.map(|quorum| quorum.stages.clone()),
            term: quorum.and_then(|quorum| quorum.term),
            began_at_step: quorum.and_then(|quorum| quorum.began_at_step),
            loss: status.loss.map(|loss| loss.nats),
            peers: status.net.as_ref().map(|net| net.peers.len()),
            height: status.agreed.as_ref().map(|agreed| agreed.height),
            ..row
        }
    }

    /// The row's cells, below [`HEADER`]'s.
    fn cells(&self) -> String {
        fn cell<T: ToString>(value: Option<T>) -> String {
            value.map_or_else(|| "-".to_owned(), |value| value.to_string())
        }
        let short = |name: &Option<String>| name.as_ref().map_or("-".to_owned(), |name| name.chars().take(6).collect());
        let mode = match (self.state, &self.mode) {
            ("runs", Some(mode)) => mode.clone(),
            ("runs", None) => "measures".to_owned(),
            (state, _) => state.to_owned(),
        };
        let speed = if self.throttle == "1" { String::new() } else { format!("1/{}", self.throttle) };
        line([
            &self.number.to_string(),
            &short(&self.node),
            &cell(self.pid),
            &cell(self.tier.as_ref()),
            &speed,
            &mode,
            &short(&self.quorum),
            &cell(self.stages.as_ref()),
            &cell(self.step),
            &cell(self.loss.map(|loss| format!("{loss:.3}"))),
            &cell(self.peers),
            &cell(self.height),
        ])
    }
}

/// Names of the cells.
const HEADER: [&str; 12] =
    ["#", "node", "pid", "tier", "speed", "mode", "quorum", "stages", "step", "loss", "peers", "height"];

/// Cells side by side, 77 columns in all.
fn line(cells: [&str; 12]) -> String {
    let [number, node, pid, tier, speed, mode, quorum, stages, step, loss, peers, height] = cells;
    format!(
        "{number:<3}{node:<7}{pid:>7} {tier:<5}{speed:<6}{mode:<9}{quorum:<7}{stages:<7}{step:>6}{loss:>6}{peers:>6}\
         {height:>7}"
    )
}

/// The devnet at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) rows: Vec<Row>,
    /// The model, once it is known.
    pub(super) model: Option<String>,
    /// The furthest step that a node has now.
    pub(super) step: u64,
    /// Losses in nats, the newest last.
    pub(super) losses: VecDeque<f64>,
    /// The step of the newest one.
    newest: Option<u64>,
    /// The quorums that were told of, with the beginnings that were.
    told: BTreeMap<String, Option<u64>>,
}

impl View {
    /// Takes over how the nodes stand, and says what is new.
    pub(super) fn take(&mut self, nodes: &[Node], options: &Options) -> Vec<(&'static str, String)> {
        let model = |status: &Status| format!("{}, {} parameters", status.preset, count(status.parameters));
        self.model = self.model.take().or_else(|| nodes.iter().find_map(|node| node.status.as_ref()).map(model));
        self.take_rows(nodes.iter().map(|node| Row::new(node, options)).collect())
    }

    fn take_rows(&mut self, rows: Vec<Row>) -> Vec<(&'static str, String)> {
        self.rows = rows;
        let before = self.step;
        // What a killed node had is lost, and what is done again is no progress: only what is there now counts.
        let there = |row: &&Row| matches!(row.state, "runs" | "done");
        self.step = self.rows.iter().filter(there).filter_map(|row| row.step).max().unwrap_or(before);
        let furthest = self.rows.iter().filter(|row| row.loss.is_some()).max_by_key(|row| row.step);
        if let Some((step, loss)) = furthest.and_then(|row| row.step.zip(row.loss))
            && self.newest != Some(step)
        {
            self.newest = Some(step);
            push_loss(&mut self.losses, loss);
        }
        self.news(before)
    }

    /// New quorums, and old ones that began anew; `step` is what the furthest node had until now.
    fn news(&mut self, step: u64) -> Vec<(&'static str, String)> {
        let Self { rows, told, .. } = self;
        told.retain(|name, _| rows.iter().any(|row| row.quorum.as_ref() == Some(name)));
        let mut news = Vec::new();
        for (row, name) in rows.iter().filter_map(|row| Some((row, row.quorum.as_ref()?))) {
            if !told.contains_key(name)
                && let Some(words) = quorum_words(rows, row, name)
            {
                news.push(("quorum", words));
                told.insert(name.clone(), None);
            }
            if let Some(term) = told.get_mut(name)
                && let Some(from) = row.began_at_step.filter(|_| row.term > *term)
            {
                *term = row.term;
                let again = match (from, step.saturating_sub(from)) {
                    (_, 0) => String::new(),
                    (0, again) => format!(", as not all had saved yet; {} steps are done again", grouped(again)),
                    (_, again) => format!(", where all had saved; {} steps are done again", grouped(again)),
                };
                news.push(("training", format!("{name:.6} goes on from step {}{again}", grouped(from))));
            }
        }
        news
    }

    fn head(&self) -> String {
        let loss = self.losses.back().map_or_else(String::new, |loss| format!(", loss {loss:.3} nats"));
        format!("step {}{loss}", grouped(self.step))
    }
}

/// Who runs what in a quorum, once all its members are seen.
fn quorum_words(rows: &[Row], member: &Row, name: &str) -> Option<String> {
    let mut all: Vec<&Row> = rows.iter().filter(|row| row.quorum.as_deref() == Some(name)).collect();
    if u64::try_from(all.len()).ok() != member.members {
        return None;
    }
    let start = |row: &&Row| row.stages.as_ref()?.split("..").next()?.parse::<u32>().ok();
    all.sort_by_key(start);
    let one = |row: &&Row| format!("node {} runs {}", row.number, row.stages.as_deref().unwrap_or("-"));
    let words: Vec<_> = all.iter().map(one).collect();
    Some(format!("{name:.6}: {}", words.join(", ")))
}

/// A way to show a devnet.
pub(super) trait Show {
    /// Something happened.
    fn tell(&mut self, name: &str, text: &str);

    /// How things stand now; called several times a second.
    fn draw(&mut self, view: &View);

    /// The last word.
    fn end(&mut self, view: &View, text: &str);

    /// Whether nobody reads any more.
    fn is_unseen(&self) -> bool;
}

/// The way that fits where standard output goes.
pub(super) fn choose(json: bool, nodes: usize) -> Box<dyn Show> {
    if json {
        return Box::new(Json { out: Out::new(io::stdout()), last: None });
    }
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    let rows = u16::try_from(nodes).unwrap_or(u16::MAX).saturating_add(ROWS_BESIDE);
    if io::stdout().is_terminal()
        && !dumb
        && let Ok(screen) = Inline::on_terminal(rows, COLUMNS_MIN)
    {
        return Box::new(Live { screen, view: View::default(), unseen: false });
    }
    Box::new(Plain { out: Out::new(io::stdout()), last: None })
}

/// A stream that may lose its reader.
struct Out<W> {
    to: W,
    unseen: bool,
}

impl<W: Write> Out<W> {
    const fn new(to: W) -> Self {
        Self { to, unseen: false }
    }

    fn line(&mut self, line: &str) {
        self.unseen |= writeln!(self.to, "{line}").and_then(|()| self.to.flush()).is_err();
    }
}

/// Plain lines: what happens, and the table every few seconds.
struct Plain<W> {
    out: Out<W>,
    last: Option<Instant>,
}

impl<W: Write> Plain<W> {
    fn table(&mut self, view: &View) {
        self.out.line(&view.head());
        self.out.line(&line(HEADER));
        for row in &view.rows {
            self.out.line(row.cells().trim_end());
        }
    }
}

impl<W: Write> Show for Plain<W> {
    fn tell(&mut self, name: &str, text: &str) {
        self.out.line(&format!("{name:<9} {text}"));
    }

    fn draw(&mut self, view: &View) {
        if self.last.is_none_or(|last| last.elapsed() >= TABLE_EVERY) {
            self.last = Some(Instant::now());
            self.table(view);
        }
    }

    fn end(&mut self, view: &View, text: &str) {
        self.table(view);
        self.tell("stopped", text);
    }

    fn is_unseen(&self) -> bool {
        self.out.unseen
    }
}

/// One JSON object a line.
struct Json<W> {
    out: Out<W>,
    last: Option<Instant>,
}

impl<W: Write> Json<W> {
    fn nodes(&mut self, view: &View) {
        let (step, loss) = (view.step, view.losses.back());
        let line = serde_json::json!({ "event": "nodes", "step": step, "loss": loss, "nodes": view.rows });
        self.out.line(&line.to_string());
    }
}

impl<W: Write> Show for Json<W> {
    fn tell(&mut self, name: &str, text: &str) {
        self.out.line(&serde_json::json!({ "event": name.to_lowercase(), "text": text }).to_string());
    }

    fn draw(&mut self, view: &View) {
        if self.last.is_none_or(|last| last.elapsed() >= JSON_EVERY) {
            self.last = Some(Instant::now());
            self.nodes(view);
        }
    }

    fn end(&mut self, view: &View, text: &str) {
        self.nodes(view);
        self.tell("stopped", text);
    }

    fn is_unseen(&self) -> bool {
        self.out.unseen
    }
}

/// A panel on a terminal.
struct Live<B: Backend> {
    screen: Inline<B>,
    view: View,
    unseen: bool,
}

impl<B: Backend<Error: Send + Sync + 'static>> Live<B> {
    fn render(&mut self, foot: &str) {
        let view = &self.view;
        self.unseen |= self.screen.draw(|area, buffer| panel(view, foot, area, buffer)).is_err();
    }
}

impl<B: Backend<Error: Send + Sync + 'static>> Show for Live<B> {
    fn tell(&mut self, name: &str, text: &str) {
        self.unseen |= self.screen.above(name, text).is_err();
    }

    fn draw(&mut self, view: &View) {
        self.view = view.clone();
        self.render("Ctrl-C stops all; kill -9 PID to see a node replaced");
    }

    fn end(&mut self, view: &View, text: &str) {
        self.view = view.clone();
        self.render(&format!("stopped {text}"));
        self.unseen |= self.screen.leave().is_err();
    }

    fn is_unseen(&self) -> bool {
        self.unseen
    }
}

fn panel(view: &View, foot: &str, area: Rect, buffer: &mut Buffer) {
    let model = view.model.as_deref().map_or_else(String::new, |model| format!("─ {model} "));
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().fg(Color::DarkGray))
        .title_top(Line::from(vec![Span::raw(" neuroshard devnet ").bold(), Span::raw(model)]))
        .title_top(Line::from(format!(" {} ", view.head()).bold()).right_aligned())
        .title_bottom(Line::from(format!(" {foot} ").dim()));
    let inner = block.inner(area);
    block.render(area, buffer);
    let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(1), ..inner };
    let place = |row: u16| Rect { y: inner.y + row.min(inner.height.saturating_sub(1)), height: 1, ..inner };
    Line::from(line(HEADER).dim()).render(place(0), buffer);
    let mut next = 1;
    for row in &view.rows {
        let style = match row.state {
            "gone" => Style::new().fg(Color::Red).bold(),
            "runs" if row.quorum.is_some() => Style::new().fg(Color::Green),
            "runs" => Style::new(),
            _ => Style::new().dim(),
        };
        Line::from(Span::styled(row.cells(), style)).render(place(next), buffer);
        next += 1;
    }
    let losses: Vec<f64> = view.losses.iter().copied().collect();
    let bars = sparkline(&losses, usize::from(inner.width.saturating_sub(7)));
    let loss = vec![Span::raw("loss  ").dim(), Span::styled(bars, Style::new().fg(Color::Cyan))];
    Line::from(loss).render(place(next), buffer);
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;

    use super::*;

    fn view() -> View {
        let member = |number: usize, stages: &str| Row {
            number,
            node: Some("5f347845fb2277cd".into()),
            pid: Some(4_194_304),
            state: "runs",
            throttle: "1".into(),
            tier: Some("T1".into()),
            mode: Some("pipeline".into()),
            quorum: Some("9e1204ab".into()),
            members: Some(2),
            stages: Some(stages.into()),
            step: Some(12_345),
            loss: Some(2.3456),
            peers: Some(2),
            height: Some(17),
            ..Row::default()
        };
        let gone = Row { number: 3, state: "gone", throttle: "64".into(), pid: Some(7), ..Row::default() };
        View {
            rows: vec![member(1, "3..5"), member(2, "0..3"), gone],
            step: 12_345,
            losses: VecDeque::from([5.0, 4.0, 3.0, 2.3456]),
            model: Some("nano, 855,946 parameters".into()),
            ..View::default()
        }
    }

    #[test]
    fn the_table_fits_a_terminal_of_eighty_columns() {
        let screen = Inline::new(TestBackend::new(80, 12), 7, 80).unwrap();
        let mut live = Live { screen, view: View::default(), unseen: false };
        live.draw(&view());
        let buffer = live.screen.backend().buffer();
        let rows = buffer.content.chunks(80).take(7);
        let rows: Vec<String> = rows.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect()).collect();
        assert_eq!(
            rows,
            [
                "╭ neuroshard devnet ─ nano, 855,946 parameters ── step 12,345, loss 2.346 nats ╮",
                "│ #  node       pid tier speed mode     quorum stages   step  loss peers height│",
                "│ 1  5f3478 4194304 T1         pipeline 9e1204 3..5    12345 2.346     2     17│",
                "│ 2  5f3478 4194304 T1         pipeline 9e1204 0..3    12345 2.346     2     17│",
                "│ 3  -            7 -    1/64  gone     -      -           -     -     -      -│",
                "│ loss  █▅▃▁                                                                   │",
                "╰ Ctrl-C stops all; kill -9 PID to see a node replaced ────────────────────────╯",
            ]
        );
    }

    #[test]
    fn a_quorum_is_told_once_in_the_order_of_its_stages_when_all_members_are_seen() {
        let rows = view().rows;
        let mut view = View::default();
        assert_eq!(view.take_rows(rows[1..].to_vec()), []);
        let words = "9e1204: node 2 runs 0..3, node 1 runs 3..5".to_owned();
        assert_eq!(view.take_rows(rows.clone()), [("quorum", words)]);
        assert_eq!(view.take_rows(rows), []);
    }

    #[test]
    fn a_quorum_that_goes_back_says_so_and_its_step_and_losses_go_on_from_there() {
        let mut rows = view().rows;
        let mut view = View::default();
        let mut at = |step: u64, loss: f64, term: u64, from: u64| {
            for row in &mut rows[..2] {
                (row.step, row.loss, row.term, row.began_at_step) = (Some(step), Some(loss), Some(term), Some(from));
            }
            let news = view.take_rows(rows.clone());
            (news.last().map(|(name, words)| format!("{name} {words}")), view.step, view.losses.clone().into())
        };
        let news: Vec<Option<String>> = vec![
            Some("training 9e1204 goes on from step 0".into()),
            None,
            Some("training 9e1204 goes on from step 1,000, where all had saved; 700 steps are done again".into()),
        ];
        let seen: [(Option<String>, u64, Vec<f64>); 3] =
            [at(3, 5.0, 7, 0), at(1700, 2.0, 7, 0), at(1001, 3.0, 8, 1000)];
        let wanted = [(3, vec![5.0]), (1700, vec![5.0, 2.0]), (1001, vec![5.0, 2.0, 3.0])];
        for ((seen, news), (step, losses)) in seen.into_iter().zip(news).zip(wanted) {
            assert_eq!(seen, (news, step, losses));
        }
    }

    #[test]
    fn the_step_of_a_killed_node_is_not_there_any_more() {
        let mut rows = view().rows;
        let mut view = View::default();
        view.take_rows(rows.clone());
        rows[0].step = Some(12_346);
        (rows[0].state, rows[1].step) = ("gone", Some(12_340));
        view.take_rows(rows.clone());
        assert_eq!(view.step, 12_340);
        rows.iter_mut().for_each(|row| row.state = "gone");
        view.take_rows(rows);
        assert_eq!(view.step, 12_340);
    }

    #[test]
    fn lines_for_scripts_hold_every_cell() {
        let mut json = Json { out: Out::new(Vec::new()), last: None };
        json.tell("GONE", "node 3 was killed");
        json.draw(&view());
        json.draw(&view());
        let text = String::from_utf8(json.out.to).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["event"], "gone");
        assert_eq!((&lines[1]["nodes"][1]["stages"], &lines[1]["step"]), (&"0..3".into(), &12_345.into()));
    }
}
