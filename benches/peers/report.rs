//! From times to figures: the records of the JSON, and what is printed of them.

use std::process::Command;

use crate::common::{Ratio, Record, Result, Row, from_json};
use crate::rows::Entry;

/// What was measured on.
pub fn machine(rounds: usize) -> Vec<Record> {
    let text = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpu = text("/proc/cpuinfo");
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or_default()
        .trim_start_matches(['\t', ' ', ':']);
    let memory = crate::common::memory::fields("/proc/meminfo", &["MemTotal:"]).unwrap_or(0);
    let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().map(|output| output.stdout).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    #[allow(clippy::cast_precision_loss)]
    let record = Record::new("machine")
        .text("date", String::from_utf8_lossy(&date).trim())
        .text("cpu", cpu)
        .number("cores", cores as f64, 0)
        .number("memory_mib", (memory >> 10) as f64, 0)
        .text("kernel", text("/proc/sys/kernel/osrelease").trim())
        .text("cgroups", crate::version())
        .number("rounds", rounds as f64, 0);
    vec![record]
}

/// What a row is compared with: ours of the same isolation.
fn ours<'t>(entries: &[Entry<'_>], times: &'t [[Row; 2]], of: &Entry<'_>) -> Option<&'t [Row; 2]> {
    let name = format!("{}/stockade", if of.group() == "none" { "ns" } else { of.group() });
    row(entries, times, &name)
}

fn row<'t>(entries: &[Entry<'_>], times: &'t [[Row; 2]], name: &str) -> Option<&'t [Row; 2]> {
    entries.iter().zip(times).find(|(entry, _)| entry.name == name).map(|(_, rows)| rows)
}

/// One record for each row, or one that says why there is none.
pub fn launches(entries: &[Entry<'_>], times: &[[Row; 2]]) -> Vec<Record> {
    let mut records = vec![];
    for (entry, rows) in entries.iter().zip(times) {
        if entry.way().is_none() {
            records.push(entry.record(&entry.name).text("group", entry.group()).text("absent", entry.absent()));
            continue;
        }
        for (program, row) in rows.iter().enumerate().filter(|(_, row)| !row.times.is_empty()) {
            let median_of =
                |rows: Option<&[Row; 2]>| rows.and_then(|rows| rows.get(program)).map_or(f64::NAN, Row::median);
            let mut record = entry
                .record(&row.name)
                .text("group", entry.group())
                .number("median_us", row.median(), 1)
                .number("min_us", row.quantile(0.0), 1)
                .number("p99_us", row.quantile(0.99), 1)
                .number("ratio_std", row.median() / median_of(self::row(entries, times, "none/std")), 3);
            if let Some(ours) = ours(entries, times, entry).and_then(|rows| rows.get(program)) {
                let ratio = Ratio::of(&row.times, &ours.times);
                record = record.number("ratio_ours", ratio.value, 3).number("ratio_ours_low", ratio.low, 3).number(
                    "ratio_ours_high",
                    ratio.high,
                    3,
                );
            }
            if entry.group().starts_with("rss-") {
                let who = entry.name.rsplit('/').next().unwrap_or_default();
                let small = median_of(self::row(entries, times, &format!("rss-0/{who}")));
                record = record.number("ratio_rss_0", row.median() / small, 3);
            }
            records.push(record);
        }
    }
    records
}

/// What is aimed at, and whether it was reached.
pub fn goals(entries: &[Entry<'_>], times: &[[Row; 2]], records: &[Record]) -> Vec<Record> {
    let dynamic =
        |name: &str| row(entries, times, name).and_then(|rows| rows.first()).filter(|row| !row.times.is_empty());
    // Of those that lack nothing.
    let complete = |entry: &&Entry<'_>| {
        let seen = format!("seen/{}", entry.name);
        records.iter().any(|record| record.get_text("name") == seen && record.get_text("lacking").is_empty())
    };
    let best = entries
        .iter()
        .filter(|entry| entry.group() == "hardened" && !entry.ours && entry.peer != "floor")
        .filter(complete)
        .filter_map(|entry| dynamic(&entry.name))
        .min_by(|one, other| one.median().total_cmp(&other.median()));
    let mut goals = vec![];
    for (name, what, above, below, most) in [
        (
            "floor",
            "cold, 7 namespaces, root, limits, to the floor of the same",
            "limits/stockade",
            dynamic("limits/floor"),
            1.4,
        ),
        ("hardened", "hardened and limited, cold, to std", "hardened/stockade", dynamic("none/std"), 3.2),
        (
            "best-peer",
            "hardened and limited, cold, to the best peer of the same isolation",
            "hardened/stockade",
            best,
            0.4,
        ),
        ("pool", "from the pool, to std", "hardened/pool", dynamic("none/std"), 1.15),
    ] {
        let (Some(above), Some(below)) = (dynamic(above), below) else { continue };
        let ratio = Ratio::of(&above.times, &below.times);
        let met = if ratio.value <= most { "met" } else { "missed" };
        goals.push(
            Record::new(&format!("goal/{name}"))
                .text("what", what)
                .text("of", format!("{} / {}", above.name, below.name))
                .number("value", ratio.value, 3)
                .number("low", ratio.low, 3)
                .number("high", ratio.high, 3)
                .number("goal", most, 2)
                .text("result", met),
        );
    }
    for group in ["ns", "root", "limits", "hardened"] {
        goals.extend(memory_goal(records, group));
    }
    goals
}

/// A sandbox that sleeps is to take less than each peer's of the same isolation.
fn memory_goal(records: &[Record], group: &str) -> Option<Record> {
    let start = format!("idle/{group}/");
    let all = || {
        let named = records.iter().filter_map(|record| Some((record.get_text("name").strip_prefix(&start)?, record)));
        named.filter_map(|(who, record)| Some((who, record.get("total_kib")?)))
    };
    let (_, ours) = all().find(|(who, _)| *who == "stockade")?;
    let peers = all().filter(|(who, _)| !matches!(*who, "stockade" | "floor"));
    let (least, peer) = peers.min_by(|one, other| one.1.total_cmp(&other.1))?;
    let value = ours / peer;
    Some(
        Record::new(&format!("goal/idle-{group}"))
            .text("what", format!("memory of an idle sandbox ({group}), to the least of the peers"))
            .text("of", format!("{start}stockade / {start}{least}"))
            .number("value", value, 3)
            .number("goal", 1.0, 2)
            .text("result", if value < 1.0 { "met" } else { "missed" }),
    )
}

fn show(number: Option<f64>, decimals: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.decimals$}"))
}

/// What of a name tells what kind of figure it is.
fn kind(record: &Record) -> &str {
    record.get_text("name").split(['/', '-']).next().unwrap_or_default()
}

fn is_launch(record: &&Record) -> bool {
    !record.get_text("group").is_empty()
}

pub fn print(records: &[Record]) {
    let line = |what: &str| println!("\n{what}");
    line(
        "launches: median, least and 99th percentile in microseconds; ratios of medians, with 95 % confidence intervals",
    );
    println!("{:<32} {:>9} {:>9} {:>9} {:>7} {:>22}", "row", "median", "min", "p99", "x std", "x ours");
    for record in records.iter().filter(is_launch).filter(|record| record.get("median_us").is_some()) {
        let number = |key: &str, decimals: usize| show(record.get(key), decimals);
        let ratio = record.get("ratio_ours").map_or_else(String::new, |_| {
            format!("{} ({}-{})", number("ratio_ours", 2), number("ratio_ours_low", 2), number("ratio_ours_high", 2))
        });
        println!(
            "{:<32} {:>9} {:>9} {:>9} {:>7} {ratio:>22}",
            record.get_text("name"),
            number("median_us", 0),
            number("min_us", 0),
            number("p99_us", 0),
            number("ratio_std", 2)
        );
    }
    let absent = |record: &&Record| !record.get_text("absent").is_empty();
    if records.iter().any(|record| absent(&record)) {
        line("absent");
        for record in records.iter().filter(absent) {
            println!("{:<32} {}: {}", record.get_text("name"), record.get_text("peer"), record.get_text("absent"));
        }
    }
    line("isolation, as the host sees it: what a row lacks of its group's");
    let lacking = |record: &&Record| !record.get_text("lacking").is_empty();
    for record in records.iter().filter(|record| kind(record) == "seen").filter(lacking) {
        println!("{:<32} {}", record.get_text("name"), record.get_text("lacking"));
    }
    line("launches of /bin/true per second, by threads");
    for record in records.iter().filter(|record| kind(record) == "rate") {
        println!(
            "{:<32} {:>9} {:>9} x std",
            record.get_text("name"),
            show(record.get("per_second"), 0),
            show(record.get("ratio_std"), 2)
        );
    }
    line("an idle sandbox with a static program in it, KiB: processes (proportional), kernel, both");
    for record in records.iter().filter(|record| kind(record) == "idle" && !absent(record)) {
        let number = |key: &str| show(record.get(key), 0);
        let own = record.get("proportional_kib").or(record.get("resident_kib"));
        println!(
            "{:<32} {:>9} {:>9} {:>9}",
            record.get_text("name"),
            show(own, 0),
            number("kernel_kib"),
            number("total_kib")
        );
    }
    line("many live at once, ms: until all run, until all have ended");
    for record in records.iter().filter(|record| kind(record) == "live" && !absent(record)) {
        let number = |key: &str| show(record.get(key), 0);
        println!(
            "{:<32} {:>9} {:>9} ({} live)",
            record.get_text("name"),
            number("start_ms"),
            number("end_ms"),
            number("count")
        );
    }
    line("goals");
    for record in records.iter().filter(|record| kind(record) == "goal") {
        let number = |key: &str| show(record.get(key), 2);
        println!(
            "{:<6} {:<64} {} (goal: {} {}) {}",
            record.get_text("result"),
            record.get_text("what"),
            number("value"),
            if record.get_text("name").starts_with("goal/idle") { "below" } else { "at most" },
            number("goal"),
            record.get_text("of")
        );
    }
}

/// The tables of the README.
pub fn tables(records: &[Record]) -> Result<()> {
    // What was read can be written again as it was.
    from_json(&crate::common::to_json(records))?;
    if let Some(machine) = records.iter().find(|record| record.get_text("name") == "machine") {
        let number = |key: &str| show(machine.get(key), 0);
        println!(
            "{}; {} cores ({}), {} MiB of memory, Linux {}, cgroups {}; {} rounds.\n",
            machine.get_text("date"),
            number("cores"),
            machine.get_text("cpu"),
            number("memory_mib"),
            machine.get_text("kernel"),
            machine.get_text("cgroups"),
            number("rounds")
        );
    }
    println!(
        "| launch of /bin/true | isolation | median µs | p99 µs | × std | × ours (95 %) |\n|---|---|--:|--:|--:|--:|"
    );
    let dynamic = |record: &&Record| record.get_text("name").ends_with("/true") && !kind(record).starts_with("rss");
    for record in records.iter().filter(is_launch).filter(dynamic) {
        let number = |key: &str, decimals: usize| show(record.get(key), decimals);
        println!(
            "| {} | {} | {} | {} | {} | {} ({}–{}) |",
            record.get_text("peer"),
            record.get_text("isolation"),
            number("median_us", 0),
            number("p99_us", 0),
            number("ratio_std", 2),
            number("ratio_ours", 2),
            number("ratio_ours_low", 2),
            number("ratio_ours_high", 2)
        );
    }
    println!("\n| from a host with MiB in use | median µs | × with none |\n|---|--:|--:|");
    for record in records.iter().filter(is_launch).filter(|record| kind(record) == "rss") {
        let name = record.get_text("name").trim_start_matches("rss-");
        let size = name.split('/').next().unwrap_or_default();
        if record.get("median_us").is_some() {
            let number = |key: &str, decimals: usize| show(record.get(key), decimals);
            println!(
                "| {}, {size} | {} | {} |",
                record.get_text("peer"),
                number("median_us", 0),
                number("ratio_rss_0", 2)
            );
        }
    }
    println!("\n| launches per second | 1 thread | 2 threads | 4 threads |\n|---|--:|--:|--:|");
    for record in records.iter().filter(|record| record.get_text("name").starts_with("rate-1/")) {
        let name = record.get_text("name").trim_start_matches("rate-1/");
        let of = |threads: usize| {
            let wanted = format!("rate-{threads}/{name}");
            show(
                records
                    .iter()
                    .find(|record| record.get_text("name") == wanted)
                    .and_then(|record| record.get("per_second")),
                0,
            )
        };
        println!("| {} ({name}) | {} | {} | {} |", record.get_text("peer"), of(1), of(2), of(4));
    }
    println!("\n| idle sandbox | processes KiB | kernel KiB | both KiB |\n|---|--:|--:|--:|");
    for record in records.iter().filter(|record| kind(record) == "idle" && record.get("total_kib").is_some()) {
        let number = |key: &str| show(record.get(key), 0);
        let own = record.get("proportional_kib").or(record.get("resident_kib"));
        let name = record.get_text("name").trim_start_matches("idle/");
        println!(
            "| {} ({name}) | {} | {} | {} |",
            record.get_text("peer"),
            show(own, 0),
            number("kernel_kib"),
            number("total_kib")
        );
    }
    println!("\n| many live at once | how many | all started, ms | all ended, ms |\n|---|--:|--:|--:|");
    for record in records.iter().filter(|record| kind(record) == "live" && record.get("start_ms").is_some()) {
        let number = |key: &str| show(record.get(key), 0);
        let name = record.get_text("name").trim_start_matches("live/");
        println!(
            "| {} ({name}) | {} | {} | {} |",
            record.get_text("peer"),
            number("count"),
            number("start_ms"),
            number("end_ms")
        );
    }
    println!("\n| goal | is | at most | |\n|---|--:|--:|---|");
    for record in records.iter().filter(|record| kind(record) == "goal") {
        println!(
            "| {} | {} | {} | {} |",
            record.get_text("what"),
            show(record.get("value"), 2),
            show(record.get("goal"), 2),
            record.get_text("result")
        );
    }
    let mut absent = records.iter().filter(|record| !record.get_text("absent").is_empty()).peekable();
    if absent.peek().is_some() {
        println!("\nAbsent:\n");
        absent.for_each(|record| {
            println!("- {} ({}): {}", record.get_text("peer"), record.get_text("name"), record.get_text("absent"))
        });
    }
    Ok(())
}
