//! Finds out how a project's app is started, from the files that say so. Reads through a [`ProjectFolder`]; runs nothing.

use serde_json::Value;

use crate::sandbox::ProjectFolder;

/// How an app is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// A program and its arguments. `PORT` in the environment says the port, and so do arguments where that is not enough.
    pub(super) command: Vec<String>,
    /// How it was found, for people.
    pub(super) because: String,
}

/// Scripts of a package.json that start an app, best first.
const SCRIPTS: [&str; 3] = ["dev", "start", "serve"];
/// Package managers by their lock files. Two of them: the first one counts.
const LOCKS: [(&str, Manager); 6] = [
    ("bun.lock", Manager::Bun),
    ("bun.lockb", Manager::Bun),
    ("pnpm-lock.yaml", Manager::Pnpm),
    ("yarn.lock", Manager::Yarn),
    ("package-lock.json", Manager::Npm),
    ("npm-shrinkwrap.json", Manager::Npm),
];
/// Programs of Node and Python that are an app by their name.
const NODE_FILES: [&str; 6] = [
    "server.js",
    "server.mjs",
    "index.js",
    "index.mjs",
    "app.js",
    "main.js",
];
const PYTHON_FILES: [&str; 4] = ["main.py", "app.py", "server.py", "wsgi.py"];
/// Where a project's own Python is.
const PYTHONS: [&str; 2] = [".venv/bin/python", "venv/bin/python"];
/// Where a project's own programs are, bun and package managers among them.
const OWN_PROGRAMS: &str = "node_modules/.bin";
/// What starts everything that has no other way.
const RUN: &str = "run.sh";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    Bun,
    Npm,
    Pnpm,
    Yarn,
}

impl Manager {
    fn name(self) -> &'static str {
        match self {
            Self::Bun => "bun",
            Self::Npm => "npm",
            Self::Pnpm => "pnpm",
            Self::Yarn => "yarn",
        }
    }

    /// The project's own, if there is one, else the machine's.
    fn program(self, folder: &dyn ProjectFolder) -> String {
        let own = format!("{OWN_PROGRAMS}/{}", self.name());
        match folder.has(&own) {
            true => own,
            false => self.name().to_owned(),
        }
    }

    /// Running a script; npm hands on only what is behind the dashes, and the others would hand on the dashes.
    fn run(self, folder: &dyn ProjectFolder, script: &str, arguments: &[String]) -> Vec<String> {
        let mut command = vec![self.program(folder), "run".to_owned(), script.to_owned()];
        if self == Self::Npm && !arguments.is_empty() {
            command.push("--".to_owned());
        }
        command.extend(arguments.iter().cloned());
        command
    }
}

/// How the app of `folder` is started on `port`; `None` when nothing says so.
pub(super) fn detect(folder: &dyn ProjectFolder, port: u16) -> Option<Found> {
    from_package(folder, port)
        .or_else(|| from_run(folder))
        .or_else(|| from_python(folder, port))
        .or_else(|| from_rust(folder))
        .or_else(|| from_node(folder))
        .or_else(|| from_page(folder, port))
}

fn found(command: &[&str], because: &str) -> Found {
    Found {
        command: command.iter().map(|&word| word.to_owned()).collect(),
        because: because.to_owned(),
    }
}

fn from_package(folder: &dyn ProjectFolder, port: u16) -> Option<Found> {
    let package: Value = serde_json::from_str(&folder.read("package.json")?).ok()?;
    let scripts = package.get("scripts")?;
    let (name, line) = SCRIPTS
        .iter()
        .find_map(|name| Some((*name, scripts.get(*name)?.as_str()?)))?;
    let (manager, because) = manager(folder, &package);
    Some(Found {
        command: manager.run(folder, name, &arguments(line, port)),
        because: format!(
            "script {name} of package.json, with {} {because}",
            manager.name()
        ),
    })
}

/// What a project's packages are installed with: its name, and the program.
pub(in crate::sidecar) fn package_manager(folder: &dyn ProjectFolder) -> (&'static str, String) {
    let text = folder.read("package.json").unwrap_or_default();
    let package = serde_json::from_str(&text).unwrap_or_default();
    let (manager, _) = manager(folder, &package);
    (manager.name(), manager.program(folder))
}

fn manager(folder: &dyn ProjectFolder, package: &Value) -> (Manager, String) {
    let lock = LOCKS.iter().find(|(name, _)| folder.has(name));
    if let Some((name, manager)) = lock {
        return (*manager, format!("because of {name}"));
    }
    let named = package.get("packageManager").and_then(Value::as_str);
    let named = named.and_then(|text| {
        let name = text.split('@').next()?;
        [Manager::Bun, Manager::Npm, Manager::Pnpm, Manager::Yarn]
            .into_iter()
            .find(|manager| manager.name() == name)
    });
    match named {
        Some(manager) => (manager, "because of packageManager".to_owned()),
        None => (Manager::Npm, "as there is no lock file".to_owned()),
    }
}

/// What has to be said to programs that do not look at `PORT`. Only where the script is that program alone: what is behind
/// the last of several commands would be meant for that one.
fn arguments(line: &str, port: u16) -> Vec<String> {
    if line.contains(['&', '|', ';']) {
        return Vec::new();
    }
    let mut words = line.split_whitespace().skip_while(|word| {
        word.contains('=') || matches!(*word, "bunx" | "npx" | "--bun" | "cross-env")
    });
    let program = words.next().unwrap_or_default();
    let rest: Vec<&str> = words.collect();
    let says_port = rest
        .iter()
        .any(|word| *word == "-p" || word.starts_with("--port"));
    let takes_port = match program {
        "vite" => !matches!(rest.first(), Some(&"build" | &"optimize")),
        "astro" | "ng" | "webpack" | "parcel" | "vinxi" => true,
        _ => false,
    };
    match takes_port && !says_port {
        true => vec!["--port".to_owned(), port.to_string()],
        false => Vec::new(),
    }
}

fn from_run(folder: &dyn ProjectFolder) -> Option<Found> {
    folder
        .is_executable(RUN)
        .then(|| found(&["./run.sh"], "run.sh can be executed"))
}

fn from_python(folder: &dyn ProjectFolder, port: u16) -> Option<Found> {
    let own = PYTHONS.iter().find(|path| folder.has(path));
    let python = own.map_or("python3".to_owned(), |path| format!("./{path}"));
    let port = port.to_string();
    if folder.has("manage.py") {
        let address = format!("127.0.0.1:{port}");
        let command = [python.as_str(), "manage.py", "runserver", &address];
        return Some(found(&command, "manage.py is Django's"));
    }
    let (file, text) = PYTHON_FILES
        .iter()
        .find_map(|file| Some((*file, folder.read(file)?)))?;
    let module = file.trim_end_matches(".py");
    let uses = |name: &str| {
        text.lines().any(|line| {
            let mut words = line.split_whitespace();
            matches!(words.next(), Some("import" | "from"))
                && words
                    .next()
                    .is_some_and(|word| word.split('.').next() == Some(name))
        })
    };
    let starts_itself = text.contains("__main__");
    if (uses("fastapi") || uses("starlette")) && !starts_itself {
        let app = format!("{module}:app");
        let command = [
            python.as_str(),
            "-m",
            "uvicorn",
            &app,
            "--reload",
            "--port",
            &port,
        ];
        return Some(found(&command, &format!("{file} is for an ASGI server")));
    }
    if uses("flask") && !starts_itself {
        let command = [
            python.as_str(),
            "-m",
            "flask",
            "--app",
            module,
            "run",
            "--debug",
            "--port",
            &port,
        ];
        return Some(found(&command, &format!("{file} is Flask's")));
    }
    Some(found(&[python.as_str(), file], &format!("there is {file}")))
}

fn from_rust(folder: &dyn ProjectFolder) -> Option<Found> {
    let manifest = folder.read("Cargo.toml")?;
    let is_package = manifest.lines().any(|line| line.trim() == "[package]");
    (is_package && (folder.has("src/main.rs") || manifest.contains("[[bin]]")))
        .then(|| found(&["cargo", "run"], "Cargo.toml has a program"))
}

fn from_node(folder: &dyn ProjectFolder) -> Option<Found> {
    let main = folder
        .read("package.json")
        .and_then(|text| serde_json::from_str::<Value>(&text).ok())
        .and_then(|package| Some(package.get("main")?.as_str()?.to_owned()))
        // An option or something elsewhere is no program of the project.
        .filter(|main| !main.starts_with(['-', '/']) && folder.has(main.trim_start_matches("./")));
    if let Some(main) = main {
        return Some(found(&["node", &main], "it is main in package.json"));
    }
    let file = NODE_FILES.iter().find(|file| folder.has(file))?;
    let runtime = match folder.has("bun.lock") || folder.has("bun.lockb") {
        true => Manager::Bun.program(folder),
        false => "node".to_owned(),
    };
    Some(found(
        &[runtime.as_str(), file],
        &format!("there is {file}"),
    ))
}

fn from_page(folder: &dyn ProjectFolder, port: u16) -> Option<Found> {
    let port = port.to_string();
    let command = ["python3", "-m", "http.server", "--bind", "127.0.0.1", &port];
    folder
        .has("index.html")
        .then(|| found(&command, "there is index.html and nothing that serves it"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Files(BTreeMap<&'static str, &'static str>);

    impl ProjectFolder for Files {
        fn read(&self, name: &str) -> Option<String> {
            self.0.get(name).map(|text| (*text).to_owned())
        }

        fn has(&self, name: &str) -> bool {
            self.0.contains_key(name)
        }

        fn is_executable(&self, name: &str) -> bool {
            self.0.get(name).is_some_and(|text| text.starts_with("#!"))
        }
    }

    fn command(files: &[(&'static str, &'static str)]) -> String {
        let files = Files(files.iter().copied().collect());
        detect(&files, 3000).map_or_else(String::new, |found| found.command.join(" "))
    }

    #[test]
    fn a_script_is_run_with_the_package_manager_of_the_lock_file() {
        let next = r#"{"scripts":{"dev":"next dev","start":"next start"}}"#;
        for (lock, expected) in [
            ("bun.lock", "bun run dev"),
            ("bun.lockb", "bun run dev"),
            ("pnpm-lock.yaml", "pnpm run dev"),
            ("yarn.lock", "yarn run dev"),
            ("package-lock.json", "npm run dev"),
            ("README.md", "npm run dev"),
        ] {
            assert_eq!(command(&[("package.json", next), (lock, "")]), expected);
        }
        let start = r#"{"packageManager":"pnpm@9.1.0","scripts":{"start":"node x.js"}}"#;
        assert_eq!(command(&[("package.json", start)]), "pnpm run start");
    }

    #[test]
    fn a_project_that_brings_its_package_manager_along_gets_that() {
        let own = ("node_modules/.bin/bun", "");
        let dev = r#"{"scripts":{"dev":"bun --hot server.ts"}}"#;
        assert_eq!(
            command(&[("package.json", dev), ("bun.lock", ""), own]),
            "node_modules/.bin/bun run dev"
        );
        assert_eq!(
            command(&[("index.js", ""), ("bun.lock", ""), own]),
            "node_modules/.bin/bun index.js"
        );
        assert_eq!(
            command(&[("package.json", dev), ("yarn.lock", ""), own]),
            "yarn run dev"
        );
    }

    #[test]
    fn programs_that_do_not_look_at_the_port_are_told() {
        let vite = r#"{"scripts":{"dev":"vite"}}"#;
        for (lock, expected) in [
            ("package-lock.json", "npm run dev -- --port 3000"),
            ("pnpm-lock.yaml", "pnpm run dev --port 3000"),
            ("yarn.lock", "yarn run dev --port 3000"),
            ("bun.lock", "bun run dev --port 3000"),
        ] {
            assert_eq!(command(&[("package.json", vite), (lock, "")]), expected);
        }
        for (line, expected) in [
            ("vite --host", 2),
            ("NODE_ENV=x vite dev", 2),
            ("bunx --bun vite", 2),
            ("vite --port 4000", 0),
            ("vite -p 4000", 0),
            ("vite build", 0),
            ("vite build && node server.js", 0),
            ("next dev", 0),
            ("", 0),
        ] {
            assert_eq!(arguments(line, 3000).len(), expected, "{line}");
        }
    }

    #[test]
    fn other_kinds_of_projects_are_known() {
        let fastapi = "from fastapi import FastAPI\napp = FastAPI()\n";
        for (files, expected) in [
            (vec![("run.sh", "#!/bin/sh\n")], "./run.sh"),
            (vec![("run.sh", "not executable")], ""),
            (vec![("server.js", "")], "node server.js"),
            (vec![("bun.lock", ""), ("index.js", "")], "bun index.js"),
            (
                vec![("package.json", r#"{"main":"src/a.js"}"#), ("src/a.js", "")],
                "node src/a.js",
            ),
            (
                vec![
                    ("package.json", r#"{"main":"--inspect"}"#),
                    ("--inspect", ""),
                ],
                "",
            ),
            (vec![("app.py", "print(1)")], "python3 app.py"),
            (
                vec![("main.py", fastapi)],
                "python3 -m uvicorn main:app --reload --port 3000",
            ),
            (
                vec![("app.py", "import flask\n"), (".venv/bin/python", "")],
                "./.venv/bin/python -m flask --app app run --debug --port 3000",
            ),
            (
                vec![("manage.py", "")],
                "python3 manage.py runserver 127.0.0.1:3000",
            ),
            (
                vec![
                    ("Cargo.toml", "[package]\nname = \"a\"\n"),
                    ("src/main.rs", ""),
                ],
                "cargo run",
            ),
            (vec![("Cargo.toml", "[workspace]\n")], ""),
            (
                vec![("index.html", "")],
                "python3 -m http.server --bind 127.0.0.1 3000",
            ),
            (vec![("package.json", "not JSON"), ("README.md", "")], ""),
            (vec![("package.json", r#"{"scripts":{"test":"x"}}"#)], ""),
        ] {
            assert_eq!(command(&files), expected, "{files:?}");
        }
    }
}
