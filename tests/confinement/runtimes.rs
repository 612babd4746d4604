//! Compilers, interpreters and virtual machines, at work under `judge()` and in `hardened()`.

use std::path::Path;
use std::process::Command;

use stockade::seccomp::Filter;
use stockade::{Sandbox, Verdict};

use crate::{common, skip};

/// A directory with the test's files, and the sandboxes in which they are at `/in`, with room in `/work` and `/tmp`.
struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = common::directory();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        std::fs::write(directory.path().join("data"), "40 2").unwrap();
        Self { directory }
    }

    fn sandboxes(&self) -> [(&'static str, Sandbox); 2] {
        let hardened = Sandbox::hardened().bind_ro(self.directory.path(), "/in");
        // Where its settings are, which the distribution keeps below /etc.
        let hardened = java_settings().iter().fold(hardened, |sandbox, path| sandbox.bind_ro(path, path));
        let judge = hardened.clone().without_seccomp().seccomp(Filter::judge());
        [("hardened", hardened), ("judge", judge)]
    }

    /// What the script prints, in both.
    #[track_caller]
    fn prints(&self, script: &str, expected: &str) {
        for (name, sandbox) in self.sandboxes() {
            let sandbox = sandbox.record_denials();
            let mut command = sandbox.command("sh");
            command.args(["-c", script]).env("HOME", "/work").env("LC_ALL", "C.UTF-8").env("GOCACHE", "/tmp/go");
            let child = command
                .stdout(stockade::Stdio::piped())
                .stderr(stockade::Stdio::piped())
                .spawn()
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let (mut stdout, stderr) = (child.take_stdout().unwrap(), child.take_stderr().unwrap());
            let errors = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap());
            let text = std::io::read_to_string(&mut stdout).unwrap();
            let outcome = child.wait().unwrap();
            let denials = child.denials().unwrap();
            let errors = errors.join().unwrap();
            assert_eq!(outcome.verdict, Verdict::Exited(0), "{name}: {text}{errors}{denials:?}");
            assert_eq!(text.trim_end(), expected, "{name}: {errors}{denials:?}");
        }
    }
}

/// Debian's JVMs have links from below `/usr` to there.
fn java_settings() -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir("/etc").unwrap().flatten().map(|entry| entry.path());
    all.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("java-"))).collect()
}

fn has(program: &str) -> bool {
    Path::new("/usr/bin").join(program).exists()
}

#[test]
fn a_shell_and_its_tools() {
    let desk = Desk::new(&[]);
    desk.prints("seq 1000 | sort -rn | head -3 | tr '\\n' ' '; cat /in/data | wc -c | tr -d ' '", "1000 999 998 4");
    let script = "for i in 1 2 3; do (sleep 0.0$i; echo $i) & done | sort; wait; mkdir -p a/b; echo x > a/b/c; mv a d; \
         find d -type f; cp -r d e; tar cf - e | tar tf - | wc -l; trap 'echo caught' USR1; kill -USR1 $$; \
         diff -r d e && echo same; x=$(mktemp) && test -f \"$x\" && date +%s | grep -c '^[0-9]*$'";
    desk.prints(script, "1\n2\n3\nd/b/c\n3\ncaught\nsame\n1");
}

#[test]
fn gcc_compiles_and_the_result_runs() {
    let source = "#include <stdio.h>\n#include <pthread.h>\n#include <math.h>\n\
        static void *half(void *p) { *(double *)p = sqrt(*(double *)p); return 0; }\n\
        int main(void) { double v[4] = {1, 4, 9, 16}; pthread_t t[4]; int a, b; FILE *f = fopen(\"/in/data\", \"r\");\n\
        for (int i = 0; i < 4; i++) if (pthread_create(t + i, 0, half, v + i)) return 1;\n\
        for (int i = 0; i < 4; i++) pthread_join(t[i], 0);\n\
        if (!f || fscanf(f, \"%d %d\", &a, &b) != 2) return 2;\n\
        printf(\"%d %.0f\\n\", a + b, v[0] + v[1] + v[2] + v[3]); return 0; }";
    let desk = Desk::new(&[("prog.c", source)]);
    desk.prints("gcc -O2 -pipe -pthread -o /work/prog /in/prog.c -lm && /work/prog", "42 10");
    desk.prints("gcc -O1 -static -pthread -o /tmp/prog /in/prog.c -lm && /tmp/prog", "42 10");
}

#[test]
fn cpython() {
    if !has("python3") {
        skip!("there is no python3 here");
    }
    let script = "import asyncio, threading, subprocess, tempfile, os, json, math, random, socket, sqlite3, decimal, time\n\
        from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor\n\
        import multiprocessing\n\
        def square(x): return x * x\n\
        async def nap(n):\n    await asyncio.sleep(0.01)\n    return n\n\
        async def all():\n\
        \x20   process = await asyncio.create_subprocess_exec('echo', 'sub', stdout=asyncio.subprocess.PIPE)\n\
        \x20   out, _ = await process.communicate()\n\
        \x20   server = await asyncio.start_unix_server(lambda r, w: (w.write(b'hi'), w.close()), '/tmp/sock')\n\
        \x20   reader, _ = await asyncio.open_unix_connection('/tmp/sock')\n\
        \x20   said = await reader.read()\n\
        \x20   server.close()\n\
        \x20   return sum(await asyncio.gather(*map(nap, range(10)))), out.decode().strip(), said.decode()\n\
        def main():\n\
        \x20   a, b = map(int, open('/in/data').read().split())\n\
        \x20   print(a + b, *asyncio.run(all()))\n\
        \x20   with ThreadPoolExecutor(8) as pool: print(sum(pool.map(square, range(100))))\n\
        \x20   with ProcessPoolExecutor(2) as pool: print(sum(pool.map(square, range(10))))\n\
        \x20   with multiprocessing.Pool(2) as pool: print(sum(pool.map(square, range(10))))\n\
        \x20   with multiprocessing.Manager() as manager:\n\
        \x20       shared = manager.dict(); p = multiprocessing.Process(target=shared.update, args=({'k': 1},)); p.start(); p.join()\n\
        \x20       print(shared['k'])\n\
        \x20   with tempfile.NamedTemporaryFile() as f: f.write(b'x' * 5000); f.flush(); print(os.path.getsize(f.name))\n\
        \x20   db = sqlite3.connect('/work/db'); db.execute('create table t(x)'); db.execute('insert into t values (7)'); db.commit()\n\
        \x20   print(db.execute('select x from t').fetchone()[0], subprocess.run(['sh', '-c', 'exit 3']).returncode)\n\
        if __name__ == '__main__': main()\n";
    let desk = Desk::new(&[("prog.py", script)]);
    desk.prints("/usr/bin/python3 /in/prog.py", "42 45 sub hi\n328350\n285\n285\n1\n5000\n7 3");
}

#[test]
fn node() {
    if !has("node") {
        skip!("there is no node here");
    }
    let script = "const fs = require('fs'), { Worker, isMainThread, parentPort, workerData } = require('worker_threads');\n\
        if (!isMainThread) { let s = 0; for (let i = 0; i < workerData; i++) s += i; parentPort.postMessage(s); }\n\
        else (async () => {\n\
        const [a, b] = fs.readFileSync('/in/data', 'utf8').split(' ').map(Number);\n\
        fs.mkdirSync('/work/a/b', { recursive: true }); fs.writeFileSync('/work/a/b/c', 'x'.repeat(100000));\n\
        const size = (await fs.promises.stat('/work/a/b/c')).size; fs.rmSync('/work/a', { recursive: true });\n\
        const sums = await Promise.all([1000, 2000, 3000, 4000].map(n => new Promise((ok, no) => {\n\
        const w = new Worker(__filename, { workerData: n }); w.on('message', ok); w.on('error', no); })));\n\
        const out = require('child_process').execSync('echo sub').toString().trim();\n\
        const hash = require('crypto').createHash('sha256').update('x').digest('hex').slice(0, 8);\n\
        console.log(a + b, size, sums.join(), out, hash, require('zlib').gunzipSync(require('zlib').gzipSync('z')).toString());\n\
        })();\n";
    let desk = Desk::new(&[("prog.js", script)]);
    desk.prints("/usr/bin/node /in/prog.js", "42 100000 499500,1999000,4498500,7998000 sub 2d711642 z");
}

#[test]
fn the_jvm() {
    if !has("java") || !has("javac") {
        skip!("there is no JDK here");
    }
    if common::is_slow() {
        skip!("it takes minutes under emulation");
    }
    let source = "import java.nio.file.*; import java.util.*; import java.util.stream.*; import java.util.concurrent.*;\n\
        public class Prog { public static void main(String[] args) throws Exception {\n\
        String[] n = Files.readString(Path.of(\"/in/data\")).split(\" \");\n\
        ExecutorService pool = Executors.newFixedThreadPool(8); List<Future<Long>> all = new ArrayList<>();\n\
        for (int i = 0; i < 20; i++) { final long k = i; all.add(pool.submit(() -> k * k)); }\n\
        long sum = 0; for (Future<Long> f : all) sum += f.get(); pool.shutdown();\n\
        byte[][] garbage = new byte[64][]; for (int i = 0; i < 2000; i++) garbage[i % 64] = new byte[1 << 16];\n\
        Files.write(Path.of(\"/work/out\"), List.of(\"x\"));\n\
        long par = IntStream.range(0, 100000).parallel().mapToLong(x -> x).sum();\n\
        System.out.println(Integer.parseInt(n[0]) + Integer.parseInt(n[1]) + \" \" + sum + \" \" + par + \" \" + new Random(1).nextInt(100)\n\
        + \" \" + (new java.security.SecureRandom().nextInt() != 0 || true)); } }\n";
    let desk = Desk::new(&[("Prog.java", source)]);
    let place = desk.directory.path();
    let built = Command::new("javac").arg("-d").args([place, &place.join("Prog.java")]).status();
    assert!(built.unwrap().success());
    let expected = "42 2470 4999950000 85 true";
    for gc in ["", "-XX:+UseSerialGC", "-XX:+UseG1GC"] {
        desk.prints(&format!("/usr/bin/java -Xmx64m {gc} -cp /in Prog"), expected);
    }
    let script = "/usr/bin/javac -J-Xmx200m -d /work /in/Prog.java && /usr/bin/java -Xmx64m -cp /work Prog";
    desk.prints(script, expected);
}

#[test]
fn go() {
    if !has("go") {
        skip!("there is no go here");
    }
    if common::is_slow() {
        skip!("it takes minutes under emulation");
    }
    let source = "package main\nimport (\"fmt\"; \"os\"; \"sync\"; \"time\"; \"os/exec\"; \"runtime\")\n\
        func main() { var a, b int; f, err := os.Open(\"/in/data\"); if err != nil { panic(err) }\n\
        fmt.Fscan(f, &a, &b); var wg sync.WaitGroup; var mu sync.Mutex; sum := 0\n\
        for i := 0; i < 1000; i++ { wg.Add(1); go func(i int) { defer wg.Done(); time.Sleep(time.Millisecond); mu.Lock(); sum += i; mu.Unlock() }(i) }\n\
        wg.Wait(); runtime.GC(); out, err := exec.Command(\"echo\", \"sub\").Output(); if err != nil { panic(err) }\n\
        if err := os.WriteFile(\"/work/out\", []byte(\"x\"), 0644); err != nil { panic(err) }\n\
        fmt.Println(a+b, sum, string(out[:3])) }\n";
    let desk = Desk::new(&[("prog.go", source)]);
    let (program, cache) = (desk.directory.path().join("prog"), common::directory());
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(desk.directory.path().join("prog.go"))
        .envs([("GOCACHE", cache.path().to_str().unwrap()), ("GO111MODULE", "off"), ("GOTOOLCHAIN", "local")])
        .env("CGO_ENABLED", "0")
        .status();
    assert!(built.unwrap().success());
    desk.prints("/in/prog", "42 499500 sub");
}
