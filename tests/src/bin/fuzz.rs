//! Fuzzes every decoder on the stable toolchain: `fuzz --execs 1000000`, or one input again with
//! `fuzz --target log --input FILE`.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use synod_sim::fuzz::{Found, Progress, TARGETS, Target, hunt, shorten, target};

/// Numbers that a thread takes at once.
const BLOCK_EXECS: u64 = 2_000;

/// Gives changed inputs to every decoder of bytes from disk and wire, and looks for panics, for memory without bound, and
/// for what does not survive encoding and decoding.
///
/// An input's first byte says how the rest is meant: as it is, with checksums put right, or as edits of a legal specimen, so
/// that the fuzzer gets behind the checksums. The same seed tries the same inputs. An input that breaks a decoder is made
/// shorter, written to a file, and printed as a command that tries it again.
///
/// `--release` is fastest; without it arithmetic that overflows is found too. For fuzzing with feedback see
/// docs/internals/fuzzing.md.
#[derive(Parser)]
struct Args {
    /// How many inputs to try for each target.
    #[arg(long, default_value_t = 100_000)]
    execs: u64,
    /// Only the targets of these names.
    #[arg(long, value_delimiter = ',')]
    target: Vec<String>,
    /// What to draw the changes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// List the targets and leave.
    #[arg(long)]
    list: bool,
    /// Try only what this file holds; needs one `--target`.
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
    /// Where the corpora are, a directory for each target.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus"))]
    corpus: PathBuf,
    /// Where inputs that break a decoder are written.
    #[arg(long, default_value = "target/fuzz")]
    out: PathBuf,
    /// Threads; by default one per core.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fuzz: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, String> {
    if args.list {
        TARGETS.iter().for_each(|target| println!("{:<16} {}", target.name, target.about));
        return Ok(ExitCode::SUCCESS);
    }
    let named = |name: &String| target(name).ok_or_else(|| format!("there is no target called {name}: see --list"));
    let mut targets: Vec<&Target> = args.target.iter().map(named).collect::<Result<_, _>>()?;
    if let Some(input) = &args.input {
        let [target] = targets[..] else { return Err("--input needs exactly one --target".into()) };
        return replay(target, input);
    }
    if targets.is_empty() {
        targets = TARGETS.iter().collect();
    }
    // Panics are what is looked for, and are told at the end.
    std::panic::set_hook(Box::new(|_| {}));
    let mut sum = Progress::default();
    let began = Instant::now();
    for target in targets {
        match one(args, target)? {
            Ok(progress) => {
                sum.execs += progress.execs;
                sum.taken += progress.taken;
            }
            Err(found) => return tell(args, target, found),
        }
    }
    println!("{} inputs tried in {:.1} s, nothing found", sum.execs, began.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// Tries one file, and lets a panic speak for itself.
fn replay(target: &Target, input: &Path) -> Result<ExitCode, String> {
    let bytes = fs::read(input).map_err(|error| format!("{}: {error}", input.display()))?;
    match target.check(&bytes, held) {
        Ok(taken) => {
            println!("{}: {}", target.name, if taken { "taken" } else { "refused" });
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            println!("{} breaks: {failure}", target.name);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn held(run: &mut dyn FnMut()) -> u64 {
    allocation_counter::measure(run).bytes_max
}

/// The corpus of a target: its files, in the order of their names.
fn corpus(args: &Args, target: &Target) -> Result<Vec<Vec<u8>>, String> {
    let dir = args.corpus.join(target.name);
    let told = |error| format!("{}: {error} (say where the corpora are with --corpus)", dir.display());
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .map_err(told)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()
        .map_err(told)?;
    files.sort_unstable();
    files.iter().map(fs::read).collect::<Result<_, _>>().map_err(told)
}

fn one(args: &Args, target: &Target) -> Result<Result<Progress, Found>, String> {
    let corpus = corpus(args, target)?;
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let (next, state) = (AtomicU64::new(0), Mutex::new((Progress::default(), None::<Found>)));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(BLOCK_EXECS, Ordering::Relaxed);
                    if args.execs <= from {
                        return;
                    }
                    let hunted = hunt(target, &corpus, args.seed, from..(from + BLOCK_EXECS).min(args.execs), held);
                    let mut state = state.lock().expect("no holder panics");
                    match hunted {
                        Ok(progress) => {
                            state.0.execs += progress.execs;
                            state.0.taken += progress.taken;
                            show(target, state.0, began);
                        }
                        Err(found) => {
                            // Blocks below are still tried by others: the first of all is told, whichever thread has it.
                            next.store(args.execs, Ordering::Relaxed);
                            if state.1.as_ref().is_none_or(|other| found.exec < other.exec) {
                                state.1 = Some(found);
                            }
                        }
                    }
                }
            });
        }
    });
    let (progress, found) = state.into_inner().expect("no holder panics");
    if let Some(found) = found {
        return Ok(Err(found));
    }
    clear_line();
    println!(
        "{:<16} {:>9} inputs, {:>8.0} a second, {:>5.1} % taken, {:>5.1} s, from {} of the corpus",
        target.name,
        progress.execs,
        progress.execs as f64 / began.elapsed().as_secs_f64(),
        100.0 * progress.taken as f64 / progress.execs.max(1) as f64,
        began.elapsed().as_secs_f64(),
        corpus.len()
    );
    Ok(Ok(progress))
}

fn show(target: &Target, progress: Progress, began: Instant) {
    if std::io::stderr().is_terminal() {
        let rate = progress.execs as f64 / began.elapsed().as_secs_f64();
        eprint!("\r{:<16} {:>9} inputs, {rate:>8.0} a second ", target.name, progress.execs);
        let _ = std::io::stderr().flush();
    }
}

fn clear_line() {
    if std::io::stderr().is_terminal() {
        eprint!("\r{:60}\r", "");
    }
}

fn tell(args: &Args, target: &Target, found: Found) -> Result<ExitCode, String> {
    clear_line();
    let found = shorten(target, found, held);
    let file = args.out.join(format!("{}-{}-{}.input", target.name, args.seed, found.exec));
    fs::create_dir_all(&args.out)
        .and_then(|()| fs::write(&file, &found.input))
        .map_err(|error| format!("{}: {error}; the input is {:02x?}", file.display(), found.input))?;
    println!("{} breaks at input {} of seed {}: {}", target.name, found.exec, args.seed, found.failure);
    println!("  cargo run --release -p synod-sim --bin fuzz -- --target {} --input {}", target.name, file.display());
    Ok(ExitCode::FAILURE)
}
