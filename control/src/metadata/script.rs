//! Scripts for iPXE, from templates.
//!
//! Every value that a template emits passes a check (see [`super::words`]), in
//! our own templates and in those of an operator: the check sits in the
//! template engine's formatter, so it cannot be forgotten.

use super::words;
use crate::config::{DiskMethod, Templates};
use crate::limits;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, context};

const BOOT: &str = include_str!("templates/boot.ipxe");
const ENVIRONMENT: &str = include_str!("templates/environment.ipxe");
const DISK: &str = include_str!("templates/disk.ipxe");

/// The scripts.
pub struct Scripts {
    engine: Environment<'static>,
}

/// What a script that loads a kernel needs.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    /// What is loaded, for the console: `agent`, `environment talos`.
    pub what: &'a str,
    /// URL of the kernel.
    pub kernel: &'a str,
    /// URL of the initial ramdisk.
    pub initrd: &'a str,
    /// Kernel arguments.
    pub args: &'a [String],
    /// The boot attempt.
    pub attempt: &'a str,
    /// Where to look for the reason when it fails.
    pub machine: &'a str,
}

/// A script could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the script cannot be made: {0}")]
pub struct BadScript(String);

impl From<Error> for BadScript {
    fn from(e: Error) -> Self {
        Self(one_line(&e))
    }
}

impl Scripts {
    /// Compiles the templates.
    ///
    /// # Errors
    /// When a template of the operator is not one.
    pub fn new(own: &Templates) -> Result<Self, BadScript> {
        let mut engine = engine();
        for (name, own, ours) in
            [("boot", &own.boot, BOOT), ("environment", &own.environment, ENVIRONMENT), ("disk", &own.disk, DISK)]
        {
            engine.add_template_owned(name, own.clone().unwrap_or_else(|| ours.to_owned()))?;
        }
        Ok(Self { engine })
    }

    /// The first stage: finds a network and chains to `/ipxe` of `control` (a base URL).
    ///
    /// # Errors
    /// When a value may not stand in a script.
    pub fn boot(&self, control: &str) -> Result<String, BadScript> {
        self.render("boot", context! { control })
    }

    /// Loads a kernel and its initrd and starts it.
    ///
    /// # Errors
    /// When a value may not stand in a script.
    pub fn load(&self, load: &Load<'_>) -> Result<String, BadScript> {
        let Load { what, kernel, initrd, args, attempt, machine } = *load;
        let args = Value::from(args.to_vec());
        self.render("environment", context! { what, kernel, initrd, args, attempt, machine })
    }

    /// Sends a machine to its disk.
    ///
    /// # Errors
    /// When a template of the operator does not render.
    pub fn disk(&self, method: DiskMethod) -> Result<String, BadScript> {
        self.render(
            "disk",
            context! {
                auto => method == DiskMethod::Auto, sanboot => method == DiskMethod::IpxeSanboot
            },
        )
    }

    fn render(&self, name: &str, values: Value) -> Result<String, BadScript> {
        let script = self.engine.get_template(name)?.render(values)?;
        if script.len() > limits::SCRIPT_BYTES {
            return Err(BadScript(format!("{} bytes, more than {}", script.len(), limits::SCRIPT_BYTES)));
        }
        Ok(script)
    }
}

/// Whether an operator's template can be compiled, begins as a script must,
/// and renders with sample values.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn check_template(text: &str) -> Result<(), String> {
    if !text.starts_with("#!ipxe") {
        return Err("it does not begin with #!ipxe".into());
    }
    let mut engine = engine();
    engine.add_template_owned("own", text.to_owned()).map_err(|e| one_line(&e))?;
    let sample = "http://192.0.2.1:8081";
    let values = context! { control => sample, what => "agent", kernel => sample, initrd => sample,
    args => ["a=b"], attempt => "0", machine => "52:54:00:12:34:56", auto => true, sanboot => false };
    engine.get_template("own").and_then(|t| t.render(values)).map(|_| ()).map_err(|e| one_line(&e))
}

fn engine() -> Environment<'static> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_fuel(Some(limits::TEMPLATE_FUEL));
    engine.set_keep_trailing_newline_of_files();
    engine.add_filter("ipxe_word", |text: String| checked(text, words::check_word));
    engine.add_filter("ipxe_args", |args: Vec<String>| {
        args.iter().try_for_each(|a| checked(a.clone(), words::check_arg).map(|_| ()))?;
        Ok::<String, Error>(args.join(" "))
    });
    engine.set_formatter(|out, _, value| {
        // The last gate, whatever the template forgot: nothing that ends a line gets out.
        let text = match value.kind() {
            ValueKind::String | ValueKind::Number | ValueKind::Bool => value.to_string(),
            other => {
                return Err(Error::new(ErrorKind::InvalidOperation, format!("a {other} cannot stand in a script")));
            }
        };
        if text.bytes().any(|c| c != b' ' && !c.is_ascii_graphic()) {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("a value contains a control character: {text:?}"),
            ));
        }
        std::fmt::Write::write_str(out, &text).map_err(Error::from)
    });
    engine
}

trait KeepNewline {
    fn set_keep_trailing_newline_of_files(&mut self);
}

impl KeepNewline for Environment<'_> {
    /// iPXE wants the last line ended.
    fn set_keep_trailing_newline_of_files(&mut self) {
        if let Ok(syntax) = minijinja::syntax::SyntaxConfig::builder().keep_trailing_newline(true).build() {
            self.set_syntax(syntax);
        }
    }
}

fn checked(text: String, check: fn(&str) -> Result<(), words::Refusal>) -> Result<String, Error> {
    match check(&text) {
        Ok(()) => Ok(text),
        Err(why) => Err(Error::new(ErrorKind::InvalidOperation, format!("{text:?} {why}"))),
    }
}

fn one_line(e: &Error) -> String {
    let line = e.line().map(|n| format!(", template line {n}")).unwrap_or_default();
    format!("{}: {}{line}", e.kind(), e.detail().unwrap_or("no detail"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts() -> Scripts {
        Scripts::new(&Templates::default()).unwrap()
    }

    fn load<'a>(args: &'a [String], kernel: &'a str) -> Load<'a> {
        Load {
            what: "environment talos",
            kernel,
            initrd: "http://10.0.0.2:8080/i",
            args,
            attempt: "00ff",
            machine: "52:54:00:12:34:56",
        }
    }

    #[test]
    fn a_kernel_script_has_absolute_urls_bounded_retries_and_ends_its_last_line() {
        let args = vec!["initrd=i".to_string(), "ip=${netX/ip}".into()];
        let text = scripts().load(&load(&args, "http://10.0.0.2:8080/k")).unwrap();
        assert!(text.starts_with("#!ipxe\n"), "{text}");
        assert!(text.contains("\nkernel http://10.0.0.2:8080/k initrd=i ip=${netX/ip} || goto again\n"), "{text}");
        assert!(text.contains("\ninitrd http://10.0.0.2:8080/i || goto again\n"), "{text}");
        assert!(text.contains("goto failed") && text.ends_with('\n'), "{text}");
    }

    #[test]
    fn a_newline_in_any_value_is_refused_not_rendered() {
        let evil = vec!["a=b\nreboot".to_string()];
        assert!(scripts().load(&load(&evil, "http://10.0.0.2/k")).is_err());
        let good = vec!["a=b".to_string()];
        assert!(scripts().load(&load(&good, "http://10.0.0.2/k\nreboot")).is_err());
        assert!(scripts().load(&load(&good, "http://10.0.0.2/k || reboot")).is_err());
        assert!(scripts().boot("http://10.0.0.2\r\nreboot").is_err());
        let careless = Templates { environment: Some("#!ipxe\necho {{ what }}\n".into()), ..Templates::default() };
        let careless = Scripts::new(&careless).unwrap();
        let mut l = load(&good, "k");
        l.what = "x\nreboot";
        assert!(careless.load(&l).is_err(), "an operator's template without filters is guarded too");
    }

    #[test]
    fn a_template_is_checked_before_it_is_used() {
        assert!(check_template("#!ipxe\necho {{ what }}\n").is_ok());
        for (bad, word) in [
            ("echo hello", "#!ipxe"),
            ("#!ipxe\n{{ nosuch }}\n", "undefined"),
            ("#!ipxe\n{% for %}\n", "syntax"),
            ("#!ipxe\n{% for i in range(100000) %}{{ i }}{% endfor %}\n", "fuel"),
        ] {
            let why = check_template(bad).unwrap_err();
            assert!(why.contains(word), "{bad}: {why}");
        }
    }

    #[test]
    fn disk_scripts_are_those_of_sidero_and_one_that_asks_the_firmware() {
        let auto = scripts().disk(DiskMethod::Auto).unwrap();
        assert!(
            auto.contains("\niseq ${platform} efi && exit 1 ||\nsanboot --no-describe --drive 0x80 || exit 1\n"),
            "{auto}"
        );
        assert_eq!(scripts().disk(DiskMethod::IpxeExit).unwrap(), "#!ipxe\nexit\n");
        assert_eq!(scripts().disk(DiskMethod::IpxeSanboot).unwrap(), "#!ipxe\nsanboot --no-describe --drive 0x80\n");
    }

    #[test]
    fn the_first_stage_sends_every_argument_that_sidero_does() {
        let text = scripts().boot("http://10.0.0.2:8081").unwrap();
        for word in
            ["uuid=${uuid}", "mac=${", "domain=${domain", "hostname=${hostname", "serial=${serial", "arch=${buildarch}"]
        {
            assert!(text.contains(word), "{word} in {text}");
        }
    }
}
