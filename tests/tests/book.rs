//! The book says what the code does: its tables are made from the code, and what code cites is there.
//!
//! `cargo xtask golden` rewrites the tables between `<!-- made from the code: NAME -->` and `<!-- end -->`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use neuroshard_proto::ops::{self, Call, Op};
use neuroshard_proto::{LayerIndex, Params, Preset, TensorInit};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files below a folder with one of these endings, in order of their paths.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let (mut open, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() && !["target", "site", "corpus"].contains(&name.as_str()) && !name.starts_with('.') {
                open.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compares a table of a page with `text`, or rewrites it if `NEUROSHARD_BLESS` is set.
fn check_table(page: &str, name: &str, text: &str) {
    let path = root().join("docs/src").join(page);
    let whole = read(&path);
    let begin = format!("<!-- made from the code: {name} -->\n");
    let (before, rest) = whole.split_once(&begin).unwrap_or_else(|| panic!("{page} has no table `{name}`"));
    let (table, after) = rest.split_once("<!-- end -->").expect("a table ends");
    let wanted = format!("\n{text}\n");
    if table == wanted {
        return;
    }
    assert!(
        std::env::var_os("NEUROSHARD_BLESS").is_some(),
        "the table `{name}` of docs/src/{page} is not what the code says; `cargo xtask golden` rewrites it:\n{wanted}"
    );
    std::fs::write(&path, format!("{before}{begin}{wanted}<!-- end -->{after}")).expect("a writable page");
}

/// A number with its thousands set apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[test]
fn the_table_of_network_sizes_is_that_of_the_parameters() {
    let mut text = String::from(
        "| n from | phase | min quorum size | min replicas | sync interval (batches) | audit floor | session (s) |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in Params::DEFAULT.phases {
        let floor = row.audit_floor.ppm();
        assert_eq!(floor % 10_000, 0, "whole per cents");
        let (name, percent) = (row.phase.name(), floor / 10_000);
        let _ = writeln!(
            text,
            "| {} | {name} | {} | {} | {} | {percent} % | {} |",
            grouped(row.nodes),
            row.quorum_size,
            row.replicas,
            grouped(row.sync_interval.into()),
            grouped(row.session_s.into())
        );
    }
    check_table("protocol/12-parameters.md", "network sizes", &text);
}

#[test]
fn the_table_of_single_parameters_is_that_of_the_parameters() {
    let params = Params::DEFAULT;
    let mut text = String::from("| parameter | value | section |\n|---|---|---|\n");
    let mut row = |name: &str, value: String, section: &str| {
        let _ = writeln!(text, "| {name} | {value} | {section} |");
    };
    for (index, bound) in params.tier_bounds_us.iter().enumerate() {
        row(&format!("T{} ends below", index + 1), format!("{} us a layer", grouped(*bound)), "2");
    }
    row("self-benchmark: period", format!("{} ms", grouped(params.benchmark_period_ms)), "2");
    row("self-benchmark: sequence", format!("{} tokens", params.benchmark_sequence), "2");
    row(
        "self-benchmark: warm-up and timed runs",
        format!("{} + {}", params.benchmark_warmup, params.benchmark_runs),
        "2",
    );
    row("share of the memory that layers may take", params.holding_share.to_string(), "2");
    row("heartbeat every", format!("{} ms", grouped(params.heartbeat_ms)), "3");
    row("degraded from", format!("{} ms", grouped(params.degraded_ms)), "3");
    row("offline after", format!("{} ms", grouped(params.offline_ms)), "3");
    row("epoch", format!("{} ms", grouped(params.epoch_ms)), "0.2");
    row("longest step of protocol time", format!("{} ms", grouped(params.block_time_step_ms)), "0.2");
    check_table("protocol/12-parameters.md", "single parameters", &text);
    check_table("protocol/12-parameters.md", "parameters of the ledger", &ledger_parameters());
}

fn ledger_parameters() -> String {
    let Params { money, nodes, validators, .. } = Params::DEFAULT;
    let days = |ms: u64| format!("{} days", ms / 86_400_000);
    let rows = [
        ("a transfer's fee, burned", format!("{}, at least {} units", money.fee, money.fee_min.units()), "11"),
        ("registration without a puzzle", money.registration_fee.to_string(), "8"),
        ("least bond behind a node", money.bond_min.to_string(), "8"),
        ("unbonding takes", days(money.unbonding_ms), "8"),
        ("bits of a registration's puzzle", nodes.puzzle_bits.to_string(), "8"),
        ("epochs for which activity counts", nodes.activity_epochs.to_string(), "0.2"),
        ("peers drawn to attest", nodes.attesters.to_string(), "0.2"),
        ("messages an epoch without a bond", nodes.messages_unbonded.to_string(), "8"),
        ("... for each least bond, and at most", format!("{}, {}", nodes.messages_per_bond, nodes.messages_max), "8"),
        ("stake at which founders have faded", validators.founders_fade.to_string(), "11"),
        ("validators that all vote, at most", validators.voters_max.to_string(), "11"),
        ("seats, and their quorum", format!("{}, {}", validators.seats, validators.seats_quorum), "11"),
        ("epochs of a committee", validators.committee_epochs.to_string(), "11"),
        ("epochs of silence", validators.silence_epochs.to_string(), "11"),
        ("epochs barred from the beacon", validators.beacon_bar_epochs.to_string(), "11"),
    ];
    let mut text = String::from("| parameter of the ledger | value | section |\n|---|---|---|\n");
    for (name, value, section) in rows {
        let _ = writeln!(text, "| {name} | {value} | {section} |");
    }
    text
}

#[test]
fn the_table_of_presets_is_that_of_the_presets() {
    type Show = fn(Preset) -> String;
    let rows: [(&str, Show); 12] = [
        ("layers x hidden", |p| format!("{} x {}", p.specs().0.layers, p.specs().0.hidden)),
        ("heads / key-value heads", |p| format!("{} / {}", p.specs().0.heads, p.specs().0.kv_heads)),
        ("feed-forward width", |p| grouped(p.specs().0.ffn.into())),
        ("context", |p| grouped(p.specs().0.context.into())),
        ("vocabulary", |p| p.specs().0.vocab.to_string()),
        ("parameters, without the head's bias", |p| grouped(p.specs().0.parameters_without_bias())),
        ("memory to train, bytes", |p| grouped(p.specs().0.training_bytes(p.specs().0.all_layers()))),
        ("snapshot, bytes", |p| grouped(12 * p.specs().0.parameters())),
        ("batch x sequence", |p| format!("{} x {}", p.specs().1.batch, p.specs().1.sequence)),
        ("peak learning rate", |p| format!("{:e}", f64::from(p.specs().1.peak_rate_nano) / 1e9)),
        ("warm-up, steps", |p| grouped(p.specs().1.warmup.into())),
        ("cosine horizon, steps", |p| grouped(p.specs().1.horizon.into())),
    ];
    let names: Vec<String> = Preset::ALL.iter().map(|preset| format!("`{}`", preset.name())).collect();
    let mut text = format!("| | {} |\n|---|---|---|---|\n", names.join(" | "));
    for (name, show) in rows {
        let values: Vec<String> = Preset::ALL.into_iter().map(show).collect();
        let _ = writeln!(text, "| {name} | {} |", values.join(" | "));
    }
    check_table("protocol/13-model.md", "presets", &text);
}

#[test]
fn the_programs_are_those_of_the_operation_table() {
    let programs: [(&str, &[Call]); 6] = [
        ("Embedding, forward", &ops::EMBED),
        ("Layer, forward", &ops::LAYER_FORWARD),
        ("Head, forward", &ops::HEAD_FORWARD),
        ("Head, backward", &ops::HEAD_BACKWARD),
        ("Layer, backward", &ops::LAYER_BACKWARD),
        ("Embedding, backward", &ops::EMBED_BACKWARD),
    ];
    let mut text = String::new();
    for (title, calls) in programs {
        let _ = writeln!(text, "**{title}**\n\n| operation | reads | writes |\n|---|---|---|");
        for call in calls {
            let list = |slots: &[ops::Slot]| slots.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "| `{}` | {} | {} |", call.op.name(), list(call.reads), list(call.writes));
        }
        text.push('\n');
    }
    check_table("operations.md", "programs", text.trim_end_matches('\n'));
}

#[test]
fn the_tensors_are_those_of_the_model() {
    let (model, _) = Preset::Genesis.specs();
    let mut text = String::from(
        "| stage | tensor | rows x columns in `genesis` | first values | decays | name in a checkpoint |\n\
         |---|---|---|---|---|---|\n",
    );
    let (mut first, mut inner) = (model.tensors(LayerIndex(0)), model.tensors(LayerIndex(1)));
    first.retain(|tensor| !inner.contains(tensor));
    let stages =
        [("0", first), ("0 to L - 1", std::mem::take(&mut inner)), ("L", model.tensors(LayerIndex(model.layers)))];
    for (stage, tensors) in stages {
        for tensor in tensors {
            let init = match tensor.kind.init() {
                TensorInit::Normal => "N(0, 0.02)",
                TensorInit::NormalResidual => "N(0, 0.02 / sqrt(2 L))",
                TensorInit::One => "1",
                TensorInit::Zero => "0",
            };
            let decays = if tensor.kind.decays() { "yes" } else { "no" };
            let (kind, name) = (tensor.kind, tensor.kind.checkpoint_name());
            let _ = writeln!(
                text,
                "| {stage} | {kind:?} | {} x {} | {init} | {decays} | `{name}` |",
                tensor.rows, tensor.cols
            );
        }
    }
    check_table("operations.md", "tensors", &text);
}

#[test]
fn every_operation_is_explained() {
    let page = read(&root().join("docs/src/operations.md"));
    for op in Op::ALL {
        assert!(page.contains(&format!("\n| `{}` | ", op.name())), "docs/src/operations.md explains {}", op.name());
    }
}

/// The names of a type's variants, from the checked-in schema.
fn variants(name: &str) -> BTreeSet<String> {
    let schema = read(&root().join("proto/schema.json"));
    let types: serde_json::Value = serde_json::from_str(&schema).expect("the schema is JSON");
    let list = types[name]["enum"].as_array().unwrap_or_else(|| panic!("{name} is an enum"));
    list.iter().flat_map(|variant| variant.as_object().expect("a variant").keys().cloned()).collect()
}

#[test]
fn the_host_guide_names_all_that_a_host_meets() {
    let page = read(&root().join("docs/src/host.md"));
    for ty in ["Input", "Output", "Event", "Command", "Fault"] {
        for variant in variants(ty) {
            assert!(
                page.contains(&format!("`{variant}`")) || page.contains(&format!("::{variant}`")),
                "{ty}::{variant}"
            );
        }
    }
    for timer in neuroshard_core::TimerKind::ALL {
        assert!(page.contains(&format!("`{timer:?}`")), "{timer:?}");
    }
}

/// Section numbers that follow `word` and a section sign.
fn cited(text: &str, word: &str) -> BTreeSet<String> {
    let mark = format!("{word} \u{a7}");
    let number = |rest: &str| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..end].trim_end_matches('.').to_owned()
    };
    let cited = text.split(&mark).skip(1).map(number);
    cited.filter(|number| !number.is_empty()).collect()
}

#[test]
fn every_section_that_code_cites_is_in_the_book() {
    let headings = |page: &Path| -> BTreeSet<String> {
        let lines = read(page).lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        let number = |line: &String| {
            let title = line.trim_start_matches(['#', ' ', '\u{a7}']);
            title.split_once(['.', ' ']).map_or("", |_| title.split(' ').next().unwrap_or_default()).to_owned()
        };
        lines.iter().map(number).map(|number| number.trim_end_matches('.').to_owned()).collect()
    };
    let book = root().join("docs/src");
    let protocol: BTreeSet<String> =
        files(&book.join("protocol"), &[".md"]).iter().flat_map(|page| headings(page)).collect();
    let architecture = headings(&book.join("architecture.md"));
    let mut seen = 0;
    for file in files(&root(), &[".rs", ".wgsl", ".toml", ".md"]) {
        let text = read(&file);
        for (word, sections) in [("PROTOCOL", &protocol), ("ARCHITECTURE", &architecture)] {
            for number in cited(&text, word) {
                seen += 1;
                assert!(sections.contains(&number), "{} cites {word} {number}, which the book lacks", file.display());
            }
        }
    }
    assert!(seen > 20, "the code cites the book, {seen} citations were found");
}

#[test]
fn every_page_with_rust_in_it_is_compiled() {
    let list = read(&root().join("tests/src/book.rs"));
    let book = root().join("docs/src");
    for page in files(&book, &[".md"]) {
        let name = page.strip_prefix(&book).expect("a page of the book").to_string_lossy().replace('\\', "/");
        let compiled = list.contains(&format!("\"{name}\""));
        let text = read(&page);
        assert_eq!(text.contains("\n```rust"), compiled, "docs/src/{name} and the list in tests/src/book.rs");
        for shut in ["```rust,ignore", "```rust,no_run", "```rust,should_panic", "```rust,noplayground"] {
            assert!(!text.contains(shut), "docs/src/{name} has a block that is not run: {shut}");
        }
    }
}

/// The pages that show commands: the book, and what stands beside it.
fn pages() -> Vec<PathBuf> {
    let mut pages = files(&root().join("docs/src"), &[".md"]);
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|name| root().join(name)));
    pages
}

/// Lines of shell blocks.
fn shell_lines(text: &str) -> Vec<&str> {
    let blocks = text.split("\n```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap_or_default());
    blocks.flat_map(str::lines).filter(|line| !line.trim().is_empty()).collect()
}

/// Code spans in running text.
fn spans(text: &str) -> Vec<&str> {
    let prose = text.split("\n```").step_by(2);
    prose.flat_map(|prose| prose.split('`').skip(1).step_by(2)).collect()
}

/// A command's words, as a shell would cut a line without variables, up to a pipe or a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, ' ') => words.push(std::mem::take(&mut word)),
            (_, c) => word.push(c),
        }
    }
    words.push(word);
    let ends = |word: &String| word == "|" || word == "#" || word == ">";
    words.into_iter().filter(|word| !word.is_empty()).take_while(|word| !ends(word)).collect()
}

#[test]
fn every_command_line_shown_is_one_that_the_program_takes() {
    let help = read(&root().join("xtask/src/main.rs"));
    let (mut seen, mut wrong) = (0, Vec::new());
    for page in pages() {
        let text = read(&page);
        let inline = spans(&text).into_iter().filter(|span| !span.contains("..."));
        for line in shell_lines(&text).into_iter().chain(inline) {
            let words = words(line);
            let own = words.first().is_some_and(|word| word == "neuroshard");
            let node = if own {
                Some(&words[..])
            } else {
                words.strip_prefix(&["cargo", "run", "--release"].map(str::to_owned))
            };
            if let Some(xtask) = words.strip_prefix(&["cargo", "xtask"].map(str::to_owned)) {
                let name = xtask.first().expect("a chore");
                if !help.contains(&format!(
                    "
  {name} "
                )) {
                    wrong.push(format!("{}: `{line}` is no chore", page.display()));
                }
            } else if own || node.is_some_and(|rest| rest.is_empty() || rest[0] == "--") {
                let rest = node.unwrap_or_default().iter().skip(1);
                let arguments = std::iter::once("neuroshard".to_owned()).chain(rest.cloned());
                let parsed = neuroshard_cli::command().try_get_matches_from(arguments);
                if let Err(error) = parsed
                    && error.exit_code() != 0
                {
                    let why = error.to_string();
                    let why = why.lines().next().unwrap_or_default();
                    wrong.push(format!("{}: `{line}`: {why}", page.display()));
                }
            } else {
                continue;
            }
            seen += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 20, "the book shows commands, {seen} were found");
}

/// Every long flag of the program and its commands.
fn flags() -> BTreeSet<String> {
    let (mut open, mut found) = (vec![neuroshard_cli::command()], BTreeSet::new());
    while let Some(command) = open.pop() {
        found.extend(command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned)));
        open.extend(command.get_subcommands().cloned());
    }
    found.extend(["help", "version"].map(str::to_owned));
    found
}

#[test]
fn every_flag_named_is_one_that_the_program_has_and_the_operator_is_told_of_all_for_run() {
    let (flags, mut wrong) = (flags(), Vec::new());
    for page in pages() {
        for span in spans(&read(&page)) {
            let Some(flag) = span.strip_prefix("--") else { continue };
            let flag = flag.split([' ', '=']).next().unwrap_or_default();
            if !flags.contains(flag) {
                wrong.push(format!("{}: there is no flag --{flag}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let guide = read(&root().join("docs/src/operator.md"));
    let mut command = neuroshard_cli::command();
    let run = command.find_subcommand_mut("run").expect("a command `run`");
    for argument in run.get_arguments().filter_map(|argument| argument.get_long()) {
        assert!(guide.contains(&format!("\n| `--{argument}")), "docs/src/operator.md explains --{argument}");
    }
}
