//! The live panel: a few lines at the bottom of the terminal that always show how things stand; what happens once goes into
//! the lines above and stays there.

use std::io::{self, Stdout};

use neuroshard_core::Event;
use neuroshard_host::node::Report;
use neuroshard_host::status::{Follower, Loss};
use neuroshard_host::store::ByteCount;
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Paragraph, Widget};

use super::inline::{Inline, NAME};
use super::plain::{ended_words, event_words, notice_words, opening_lines, stopping_words};
use super::words::{count, duration, grouped, short_path, sparkline};
use super::{Display, News};

/// Lines of the panel.
const HEIGHT: u16 = 8;
/// A narrower terminal gets plain lines.
const COLUMNS_MIN: u16 = 60;
/// A panel on a terminal.
#[derive(Debug)]
pub(crate) struct Live<B: Backend> {
    screen: Inline<B>,
    panel: Panel,
    begun: bool,
    /// Whether a member with another plan was told of; it speaks several times a second.
    other_plan: bool,
}

impl Live<CrosstermBackend<Stdout>> {
    /// A panel at the bottom of the terminal that standard output is.
    ///
    /// # Errors
    /// If the terminal is too small or does not say where its cursor is.
    pub(crate) fn on_terminal() -> io::Result<Self> {
        Ok(Self::new(Inline::on_terminal(HEIGHT, COLUMNS_MIN)?))
    }
}

impl<B: Backend<Error: Send + Sync + 'static>> Live<B> {
    fn new(screen: Inline<B>) -> Self {
        Self { screen, panel: Panel::default(), begun: false, other_plan: false }
    }

    fn draw(&mut self) -> io::Result<()> {
        if self.begun {
            let panel = &self.panel;
            self.screen.draw(|area, buffer| panel.render(area, buffer))?;
        }
        Ok(())
    }
}

impl<B: Backend<Error: Send + Sync + 'static> + Send> Display for Live<B> {
    fn show(&mut self, news: &News<'_>, follower: Option<&Follower>) -> io::Result<()> {
        match news {
            News::Packing { done, of } | News::Fetching { done, of } => {
                self.begun = true;
                self.panel.packing = Some((*done, *of));
                return self.draw();
            }
            News::Started { network, .. } => {
                self.begun = true;
                self.panel.packing = None;
                self.panel.horizon = u64::from(network.genesis.training.horizon);
                return self.draw();
            }
            News::Report(Report::Event { event, .. }) => {
                let once = matches!(
                    event,
                    Event::StateReady { .. }
                        | Event::BatchVoid { .. }
                        | Event::JobFailed { .. }
                        | Event::JobLate { .. }
                        | Event::Diverged { .. }
                        | Event::PeerUp { .. }
                        | Event::PeerDown { .. }
                        | Event::QuorumJoined { .. }
                        | Event::QuorumLeft
                        | Event::Leaving { .. }
                        | Event::StagesMissing { .. }
                        | Event::QuorumBegan { .. }
                        | Event::StepLimit { .. }
                );
                let rejected = matches!(event, Event::Rejected { .. });
                let once = once || (rejected && !std::mem::replace(&mut self.other_plan, true));
                if let Some((name, text)) = event_words(event, follower).filter(|_| once) {
                    self.screen.above(name, &text)?;
                }
            }
            News::Report(report) => {
                let (name, text) = notice_words(report);
                self.screen.above(name, &text)?;
            }
            News::Stopping { times } => {
                self.panel.foot = Some(stopping_words(*times).to_owned());
                return self.draw();
            }
            News::Log(line) => self.screen.above("log", line)?,
            News::Ended(ended) => {
                self.panel.foot = Some(format!("stopped {}", ended_words(ended)));
                if let Some(follower) = follower {
                    self.panel.follower = Some(follower.clone());
                }
                self.draw()?;
                self.screen.leave()?;
            }
            News::Opened(_) | News::Founded { .. } | News::Joined { .. } => {
                for (name, text) in opening_lines(news) {
                    self.screen.above(name, &text)?;
                }
            }
        }
        Ok(())
    }

    fn owns_terminal(&self) -> bool {
        true
    }

    fn tick(&mut self, follower: &Follower) -> io::Result<()> {
        self.begun = true;
        self.panel.follower = Some(follower.clone());
        self.draw()
    }
}

/// What the panel shows.
#[derive(Clone, Debug, Default)]
struct Panel {
    follower: Option<Follower>,
    packing: Option<(u64, u64)>,
    /// Steps of the learning-rate schedule.
    horizon: u64,
    /// What the lower border says instead of how to stop.
    foot: Option<String>,
}

impl Panel {
    fn render(&self, area: Rect, buffer: &mut Buffer) {
        let status = self.follower.as_ref().map(|follower| &follower.status);
        let mut head = vec![Span::raw(" neuroshard ").bold()];
        let mut right = Vec::new();
        if let Some(status) = status {
            head.push(Span::raw(format!("{} ", status.version)).dim());
            let (preset, parameters) = (&status.preset, count(status.parameters));
            let data: String = status.data.chars().take(24).collect();
            head.push(Span::raw(format!("─ {preset}, {parameters} parameters, on {data} ")));
            let mode = status.mode.as_deref().unwrap_or("measuring its speed");
            right.push(Span::raw(format!(" {mode} ")).fg(Color::Green));
            if let Some(quorum) = &status.quorum {
                right.push(Span::raw(format!("─ stages {} of {} ", quorum.stages, quorum.all_stages)));
            }
            if let Some(tier) = &status.tier {
                right.push(Span::raw(format!("─ {tier} ")));
            }
        }
        let foot = self.foot.clone().unwrap_or_else(|| "Ctrl-C saves and stops".to_owned());
        let block = Block::bordered()
            .border_type(BorderType::Rounded)
            .border_style(Style::new().fg(Color::DarkGray))
            .title_top(Line::from(head))
            .title_top(Line::from(right).right_aligned())
            .title_bottom(Line::from(Span::raw(format!(" {foot} ")).dim()));
        let inner = block.inner(area);
        block.render(area, buffer);
        let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
        let rows = Layout::vertical([Constraint::Length(1); 6]).split(inner);
        match (status, self.packing) {
            (None, Some((done, of))) => {
                let text = format!("{} of {} of text", ByteCount(done), ByteCount(of));
                row(rows[0], buffer, "packing", vec![Span::raw(text)]);
                gauge(rows[1], buffer, done as f64 / of.max(1) as f64);
            }
            (None, None) => {}
            (Some(_), _) => self.render_status(&rows, buffer),
        }
    }

    fn render_status(&self, rows: &[Rect], buffer: &mut Buffer) {
        let Some(follower) = &self.follower else { return };
        let status = &follower.status;
        let (goal, words) = match status.steps_limit {
            Some(limit) => (limit, format!("of {}", grouped(limit))),
            None => (self.horizon, format!("of {} in the schedule", grouped(self.horizon))),
        };
        let step = vec![
            Span::raw(grouped(status.step)).bold(),
            Span::raw(format!(" {words}")).dim(),
            Span::raw(time_left(follower, goal)).dim(),
        ];
        let width = step.iter().map(Span::width).sum::<usize>() as u16 + NAME + 2;
        row(rows[0], buffer, "step", step);
        let [_, bar] = Layout::horizontal([Constraint::Length(width), Constraint::Min(0)]).areas(rows[0]);
        gauge(bar, buffer, status.step as f64 / goal.max(1) as f64);

        let waiting = || vec![Span::raw("not measured yet").dim()];
        row(rows[1], buffer, "loss", status.loss.map_or_else(waiting, |loss| loss_spans(loss, Color::Cyan)));
        let losses: Vec<f64> = follower.losses.iter().copied().collect();
        let [_, spark] = Layout::horizontal([Constraint::Length(NAME + 32), Constraint::Min(0)]).areas(rows[1]);
        let bars = sparkline(&losses, usize::from(spark.width));
        Paragraph::new(Span::styled(bars, Style::new().fg(Color::Cyan))).render(spark, buffer);
        let held_out = status.held_out.map_or_else(waiting, |loss| {
            let mut spans = loss_spans(loss, Color::Yellow);
            spans.push(Span::raw(format!("at step {}", grouped(loss.step))).dim());
            spans
        });
        row(rows[2], buffer, "held out", held_out);

        let speed = status.tokens_per_s.map_or("-".to_owned(), |speed| count(speed as u64));
        let amount = format!(", {} tokens in {}", count(status.tokens), duration(status.trained_ms));
        row(rows[3], buffer, "speed", vec![Span::raw(format!("{speed} tokens/s")).bold(), Span::raw(amount)]);
        row(rows[4], buffer, "adapter", vec![Span::raw(status.adapter.clone().unwrap_or_default())]);
        let saved = match (&status.saved, &status.trouble) {
            (_, Some(trouble)) => vec![Span::styled(trouble.clone(), Style::new().fg(Color::Red))],
            (Some(saved), None) => {
                let age = saved.at_ms.zip(status.at_ms).map(|(at, now)| duration(now.saturating_sub(at)));
                let age = age.map_or(String::new(), |age| format!(", {age} ago"));
                let place = format!(", in {}", short_path(&status.data_dir));
                vec![Span::raw(format!("step {}{age}", grouped(saved.step))), Span::raw(place).dim()]
            }
            (None, None) => vec![Span::raw(format!("not yet; will be in {}", short_path(&status.data_dir))).dim()],
        };
        row(rows[5], buffer, "saved", saved);
    }
}

fn loss_spans(loss: Loss, color: Color) -> Vec<Span<'static>> {
    vec![
        Span::styled(format!("{:.3} nats", loss.nats), Style::new().fg(color).add_modifier(Modifier::BOLD)),
        Span::raw(format!("  {:.3} bits/byte  ", loss.bits_per_byte)),
    ]
}

/// How long the steps to a goal will take at today's speed.
fn time_left(follower: &Follower, goal: u64) -> String {
    let status = &follower.status;
    let steps = goal.saturating_sub(status.step);
    let (Some(speed), true) = (status.tokens_per_s.filter(|speed| *speed > 0.0), steps > 0 && status.step > 0) else {
        return String::new();
    };
    let tokens_a_step = status.tokens as f64 / status.step as f64;
    let ms = steps as f64 * tokens_a_step / speed * 1000.0;
    format!(", {} left", duration(ms as u64))
}

fn row(area: Rect, buffer: &mut Buffer, name: &str, content: Vec<Span<'_>>) {
    let mut spans = vec![Span::raw(format!("{name:<width$}", width = usize::from(NAME))).dim()];
    spans.extend(content);
    Line::from(spans).render(area, buffer);
}

/// A bar with its share in percent.
fn gauge(area: Rect, buffer: &mut Buffer, share: f64) {
    let width = usize::from(area.width.saturating_sub(6)).min(40);
    if width < 5 {
        return;
    }
    let share = share.clamp(0.0, 1.0);
    let full = (share * width as f64).floor() as usize;
    let spans = vec![
        Span::styled("━".repeat(full), Style::new().fg(Color::Cyan)),
        Span::styled("─".repeat(width - full), Style::new().fg(Color::DarkGray)),
        Span::raw(format!(" {:.0} %", (share * 100.0).floor())),
    ];
    Line::from(spans).render(area, buffer);
}

#[cfg(test)]
mod tests {
    use neuroshard_core::ModeReason;
    use neuroshard_host::data::Embedded;
    use neuroshard_host::home::Home;
    use neuroshard_host::network::{Founding, Source};
    use neuroshard_host::node::{Cause, Ended};
    use neuroshard_host::status::{LossScale, Status};
    use neuroshard_proto::{BatchId, F32, Hash, Mode, Params, Preset, Step, Tier, Time};
    use ratatui::backend::TestBackend;

    use super::*;

    fn follower() -> Follower {
        let dir = tempfile::tempdir().unwrap();
        let (home, _) = Home::open(dir.path(), u64::MAX).unwrap();
        let (model, training) = Preset::Nano.specs();
        let text = vec![b'x'; 100_000];
        let source = Source::Book(Embedded(vec![("x", &text)]));
        let founders = vec![home.founder()].try_into().unwrap();
        let (params, seed, first) = (Params::DEFAULT, Hash::default(), None);
        let founding =
            Founding { model, training, params, seed, source, founders, allocations: Default::default(), first };
        let (network, _) = home.found(&founding, &mut |_, _| {}).unwrap();
        let mut status = Status::new(&network, home.keys.node_id().to_string(), "/data/neuroshard".into());
        status.version = "0.0.0".into();
        status.adapter = Some("CPU, 2 threads, AVX-512".into());
        Follower::new(status, LossScale::new(&network.manifest))
    }

    fn trained() -> Follower {
        let mut follower = follower();
        let mut progress = neuroshard_core::Progress::default();
        let events = [
            Event::TierMeasured { layer_us: 1234, tier: Tier::T1 },
            Event::ModeChosen { mode: Mode::Solo, reason: ModeReason::Alone },
        ];
        for event in events {
            follower.on_event(Time::ZERO, &event, &progress);
        }
        for step in 1..=1200_u64 {
            progress.tokens += 1024;
            progress.trained_ms += 250;
            let loss_micro = (1024.0 * 1e6 * (2.0 + 3.5 / (1.0 + step as f64 / 100.0))) as i64;
            let (norm, rate) = (F32::ONE, F32::ONE);
            let event = Event::Stepped { step: Step(step), batch: BatchId(step), loss_micro, tokens: 1024, norm, rate };
            follower.on_event(Time::from_ms(250 * step), &event, &progress);
        }
        let event = Event::HeldOut { step: Step(1200), loss_micro: 2_345_678_000, tokens: 1000 };
        follower.on_event(Time::from_ms(300_000), &event, &progress);
        let event = Event::Saved { step: Step(1200), root: Hash::default(), bytes: 10 };
        follower.on_event(Time::from_ms(300_000), &event, &progress);
        follower.status.at_ms = Some(312_000);
        follower
    }

    fn live(width: u16, height: u16) -> Live<TestBackend> {
        Live::new(Inline::new(TestBackend::new(width, height), HEIGHT, COLUMNS_MIN).unwrap())
    }

    fn screen(live: &Live<TestBackend>) -> Vec<String> {
        let buffer = live.screen.backend().buffer();
        let rows = buffer.content.chunks(usize::from(buffer.area.width));
        rows.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned())
            .collect()
    }

    #[test]
    fn the_panel_shows_how_training_stands() {
        let mut live = live(96, 12);
        live.panel.horizon = 5000;
        live.tick(&trained()).unwrap();
        assert_eq!(
            screen(&live)[..8],
            [
                "╭ neuroshard 0.0.0 ─ nano, 855,946 parameters, on book ───────────────────────────── solo ─ T1 ╮",
                "│ step      1,200 of 5,000 in the schedule, 15 min 50 s left  ━━━━━━──────────────────── 24 %  │",
                "│ loss      2.269 nats  3.274 bits/byte     ███▇▇▇▇▇▆▆▆▆▆▅▅▅▅▅▅▄▄▄▄▄▄▄▃▃▃▃▃▃▃▃▂▂▂▂▂▂▂▂▂▂▁▁▁▁▁▁ │",
                "│ held out  2.346 nats  3.384 bits/byte  at step 1,200                                         │",
                "│ speed     4,096 tokens/s, 1.23 M tokens in 5 min 0 s                                         │",
                "│ adapter   CPU, 2 threads, AVX-512                                                            │",
                "│ saved     step 1,200, 12 s ago, in /data/neuroshard                                          │",
                "╰ Ctrl-C saves and stops ──────────────────────────────────────────────────────────────────────╯",
            ]
        );
    }

    #[test]
    fn the_first_moments_say_what_is_not_known_yet() {
        let mut live = live(70, 12);
        live.tick(&follower()).unwrap();
        let screen = screen(&live);
        assert!(screen[0].contains("measuring its speed"), "{screen:#?}");
        assert!(screen[2].contains("not measured yet"), "{screen:#?}");
        assert!(screen[6].contains("not yet; will be in /data/neuroshard"), "{screen:#?}");
    }

    #[test]
    fn what_happens_once_stays_above_the_panel() {
        let mut live = live(80, 16);
        live.tick(&trained()).unwrap();
        let why = "the disk of /data is full: 1.0 MiB do not fit".to_owned();
        live.show(&News::Report(&Report::StoreWaits { why }), None).unwrap();
        live.show(&News::Stopping { times: 1 }, None).unwrap();
        let ended = Ended { step: Step(1200), saved: Some(Step(1200)), cause: Cause::Done };
        live.show(&News::Ended(&ended), Some(&trained())).unwrap();
        let text = screen(&live).join("\n");
        assert!(text.contains("DISK FULL the disk of /data is full: 1.0 MiB do not fit."), "{text}");
        assert!(text.contains("╰ stopped at step 1,200, and all of it is saved"), "{text}");
        assert!(text.find("DISK FULL") < text.find("╭ neuroshard"), "{text}");
    }

    #[test]
    fn a_limit_of_steps_is_the_goal() {
        let mut live = live(96, 12);
        let mut follower = trained();
        follower.status.steps_limit = Some(2400);
        live.tick(&follower).unwrap();
        let screen = screen(&live);
        assert!(screen[1].contains("1,200 of 2,400, 5 min 0 s left") && screen[1].contains("50 %"), "{screen:#?}");
    }
}
