//! A folder of files to run the program in.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use safetensors::tensor::{Dtype, TensorView, serialize};
use tempfile::TempDir;

/// A step of every kind of file on the CPU; tests add to it.
pub const STEP: &str =
    "apply --device cpu --config optim.toml --params p.safetensors --grads g0.safetensors --out-params out.safetensors";

pub struct Desk {
    folder: TempDir,
}

/// How a run ended.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Desk {
    /// A folder with `optim.toml` (plain Adam), parameters `w` of 5 elements and `b` of 2, and two files of
    /// gradients.
    pub fn new() -> Self {
        let desk = Self { folder: TempDir::new().expect("a temporary folder") };
        desk.text("optim.toml", "rule = \"adam\"\n");
        desk.tensors("p.safetensors", &[("w", &[5], &[1.0, -2.0, 0.5, 0.0, 3.0]), ("b", &[2], &[0.1, 0.2])]);
        desk.tensors("g0.safetensors", &[("w", &[5], &[0.1, 0.2, -0.3, 1e-8, 7.0]), ("b", &[2], &[1.0, -1.0])]);
        desk.tensors("g1.safetensors", &[("w", &[5], &[0.3, 0.0, 0.3, -1e-8, -9.0]), ("b", &[2], &[0.5, 2.0])]);
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str, text: &str) {
        self.bytes(name, text.as_bytes());
    }

    pub fn bytes(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("a file that can be written");
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Writes F32 tensors with the safetensors crate.
    pub fn tensors(&self, name: &str, tensors: &[(&str, &[usize], &[f32])]) {
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|(_, _, values)| values.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
        let raw: Vec<Raw<'_>> = tensors
            .iter()
            .zip(&bytes)
            .map(|((name, shape, _), bytes)| (*name, Dtype::F32, *shape, bytes.as_slice()))
            .collect();
        self.raw(name, &raw, None);
    }

    /// Writes tensors in the format of each.
    pub fn formatted(&self, name: &str, tensors: &[(&str, Dtype, &[usize], &[f32])]) {
        let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, dtype, _, values)| encoded(*dtype, values)).collect();
        let raw: Vec<Raw<'_>> = tensors.iter().zip(&bytes).map(|(of, bytes)| (of.0, of.1, of.2, &**bytes)).collect();
        self.raw(name, &raw, None);
    }

    /// Writes tensors of any type.
    pub fn raw(&self, name: &str, tensors: &[Raw<'_>], metadata: Option<&[(&str, &str)]>) {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (*name, TensorView::new(*dtype, shape.to_vec(), bytes).expect("a sound tensor"))
        });
        let metadata = metadata.map(|pairs| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
        self.bytes(name, &serialize(views, metadata).expect("a file of tensors"));
    }

    /// Runs the program in the folder; the line is split at spaces.
    pub fn run(&self, line: &str) -> Ran {
        self.run_words(line.split_whitespace())
    }

    /// Runs the program in the folder with these arguments, of which some may be empty.
    pub fn run_words<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_wgpu-optim"))
            .current_dir(self.folder.path())
            // Without it a layer of Mesa's complains.
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .args(words)
            .output()
            .expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Runs the program, which succeeds.
    pub fn succeeds(&self, line: &str) -> Ran {
        let ran = self.run(line);
        assert_eq!(ran.code, Some(0), "{line}\n{}", ran.stderr);
        ran
    }

    /// Runs the program, which ends with this code and a message that has all of these parts, and leaves every
    /// file as it was and none besides.
    pub fn refuses(&self, line: &str, code: i32, parts: &[&str]) {
        let before = self.files();
        let ran = self.run(line);
        assert_eq!(ran.code, Some(code), "{line}\n{}", ran.stderr);
        for part in parts {
            assert!(ran.stderr.contains(part), "{part:?} is not in: {}", ran.stderr);
        }
        assert!(ran.stdout.is_empty(), "{}", ran.stdout);
        assert!(self.files() == before, "{line}: the files are not as they were");
    }

    /// Every file with its bytes.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.folder.path()).expect("the folder").map(|entry| entry.expect("an entry"));
        let files = entries.filter(|entry| entry.path().is_file());
        files
            .map(|entry| (entry.file_name().to_string_lossy().into(), fs::read(entry.path()).expect("a file")))
            .collect()
    }

    /// The values of an F32 tensor, read by the safetensors crate.
    pub fn values(&self, file: &str, tensor: &str) -> Vec<f32> {
        let bytes = self.read(file);
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a sound file");
        let tensor = file.tensor(tensor).expect("a tensor");
        assert_eq!(tensor.dtype(), Dtype::F32);
        tensor.data().chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect()
    }
}

/// Values as a file has them in a format, by the crate `half`.
pub fn encoded(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        other => panic!("{other} is no format"),
    }
}

/// What [`encoded`] made.
pub fn decoded(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect(),
        Dtype::F16 => pairs().map(|pair| half::f16::from_le_bytes(pair).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|pair| half::bf16::from_le_bytes(pair).to_f32()).collect(),
        other => panic!("{other} is no format"),
    }
}

/// Name, type, shape and bytes.
pub type Raw<'a> = (&'a str, Dtype, &'a [usize], &'a [u8]);

/// The header of a file, with its length.
pub fn head(file: &[u8]) -> &[u8] {
    let length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
    &file[..8 + length]
}

/// What to step on: the CPU, and an adapter if there is one.
pub fn devices() -> &'static [&'static str] {
    let listed = Desk::new().succeeds("devices --json").stdout;
    let adapters: serde_json::Value = serde_json::from_str(&listed).expect("a JSON list");
    let found = adapters.as_array().is_some_and(|adapters| adapters.iter().any(|adapter| adapter["runs"] == true));
    if found {
        return &["cpu", "gpu"];
    }
    let required = std::env::var("WGPU_OPTIM_REQUIRE_GPU").is_ok_and(|value| value == "1");
    assert!(!required, "there is no adapter, and WGPU_OPTIM_REQUIRE_GPU=1");
    eprintln!("SKIPPED on a GPU: there is no adapter");
    &["cpu"]
}
