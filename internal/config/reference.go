package config

import (
	"fmt"
	"io"
	"strings"
)

// Usage writes the help of the daemon: every flag with its default.
func Usage(w io.Writer) error {
	_, err := io.WriteString(w, usage())
	return err
}

func usage() string {
	var b strings.Builder
	b.WriteString(`Usage:

  kvd [flags]
    Start a member.

  kvd config check [flags]
    Say what is wrong with the configuration.

  kvd config explain [flags]
    Say which value each option has and where it comes from.

  kvd --version | --help

Flags take their value as --flag value or --flag=value, booleans as --flag or --flag=false.
Each is also an option of the file and, as KVD_ and its name in capitals, an environment
variable. A flag beats a variable, a variable beats the file.
`)
	var at section
	for _, o := range inSections() {
		if o.section != at {
			at = o.section
			fmt.Fprintf(&b, "\n%s:\n", at)
		}
		fmt.Fprintf(&b, "  --%s '%s'\n    %s\n", o.name, o.standard, o.help)
		if o.bind(new(Config)).want() != "string" || o.values != "" {
			fmt.Fprintf(&b, "    Value: %s.\n", o.want())
		}
	}
	return b.String()
}

// Sample writes the file that the packages install: every option, commented
// out, with its default.
func Sample(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# Configuration of kvd, in TOML.
#
# Every option is here with its default, commented out. Flags of the command
# line beat environment variables (KVD_NAME for name), which beat this file.
# "kvd config check" says what is wrong, "kvd config explain" where each value
# comes from. Made by "go generate ./internal/config"; the reference is
# docs/configuration.md.
`)
	var at section
	for _, o := range inSections() {
		if o.is(outside) {
			continue
		}
		if o.section != at {
			at = o.section
			fmt.Fprintf(&b, "\n\n# --- %s ---\n", at)
		}
		b.WriteString("\n")
		for line := range wrap(o.help, 76) {
			fmt.Fprintf(&b, "# %s\n", line)
		}
		for line := range wrap("Value: "+o.want()+o.remark(), 76) {
			fmt.Fprintf(&b, "# %s\n", line)
		}
		fmt.Fprintf(&b, "# %s = %s\n", o.name, o.literal())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Reference writes docs/configuration.md.
func Reference(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- Made by "go generate ./internal/config"; edit internal/config/options_*.go instead. -->

An option is a flag (` + "`--max-txn-ops 256`" + `), an environment variable (` + "`KVD_MAX_TXN_OPS=256`" + `) and a
key of the file (` + "`max-txn-ops = 256`" + `). A flag beats a variable, a variable beats the file, the
file beats the default. The names, defaults and meanings are those of etcd 3.7.3, except
where the table says *kvd*.

- **The file** is TOML: ` + "`" + DefaultFile + "`" + ` if it exists, or what ` + "`--config-file`" + ` names. Options are
  flat; ` + "`_`" + ` may stand for ` + "`-`" + `. Lists may be TOML lists or strings with commas. Durations are strings
  such as ` + "`\"100ms\"`" + `; where etcd counts milliseconds or seconds, a bare integer counts them too. Sizes
  are integers of bytes or strings such as ` + "`\"2GiB\"`" + `.
- **Flags** are read as etcd reads them: one or two dashes, ` + "`--flag value`" + ` or ` + "`--flag=value`" + `, and
  booleans only as ` + "`--flag`" + ` or ` + "`--flag=false`" + `.
- **Variables** that are empty count as not set. ` + "`ETCD_…`" + ` variables are not read; a warning names them.
- **Paths** of certificates and keys, those of ` + "`auth-token`" + ` among them, may be ` + "`credential:NAME`" + `: the
  credential that systemd passes by ` + "`LoadCredential=NAME:…`" + `.
- **Faults** are all reported at once, with file, line and column, and end the process with status 78.
  ` + "`kvd config check`" + ` reports them without starting, ` + "`kvd config explain`" + ` prints every value and where
  it comes from; both take ` + "`--json`" + `. At a terminal they, and ` + "`kvd member rejoin`" + `, know what the
  packaged units give the service alone: with ` + "`/etc/kvd/kvd.toml`" + `, data in ` + "`/var/lib/kvd`" + `; with
  ` + "`/etc/kvd/NAME.toml`" + `, in ` + "`/var/lib/kvd/NAME`" + `; and credentials are not looked at.
- **SIGHUP** reads the configuration again and takes over what the table marks *reloadable*.
`)
	var at section
	for _, o := range inSections() {
		if o.section != at {
			at = o.section
			fmt.Fprintf(&b, "\n## %s\n\n| Option | Value | Default | Meaning |\n| --- | --- | --- | --- |\n", at)
		}
		standard := ""
		if o.standard != "" {
			standard = "`" + o.standard + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s%s |\n", o.name, cell(o.want()), cell(standard), cell(o.help), cell(o.marks()))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// literal is the default as TOML.
func (o *option) literal() string {
	switch v := o.bind(new(Config)).(type) {
	case boolean, number[int], number[uint], number[uint32], number[uint64], millis, seconds:
		return o.standard
	case size:
		if err := v.set(o.standard); err == nil && v.text() == o.standard {
			return o.standard
		}
	case duration:
		if o.standard == "0" {
			return `"0s"`
		}
	case set, list, urls, ciphers:
		if o.standard == "" {
			return "[]"
		}
		return `["` + strings.ReplaceAll(o.standard, ",", `", "`) + `"]`
	}
	if strings.Contains(o.standard, `"`) {
		return "'" + o.standard + "'"
	}
	return `"` + o.standard + `"`
}

// remark is what the sample file adds to the kind of value.
func (o *option) remark() string {
	switch {
	case o.is(reloadable):
		return "; reloadable"
	case o.is(own):
		return "; kvd's own"
	}
	return ""
}

// marks is what the reference adds to the meaning.
func (o *option) marks() string {
	text := ""
	if o.is(own) {
		text += " *kvd*"
	}
	if o.is(reloadable) {
		text += " *reloadable*"
	}
	if o.is(outside) {
		text += " *not in the file*"
	}
	return text
}

// cell makes text fit into a cell of a Markdown table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// wrap breaks text into lines of at most width bytes where a word allows it.
func wrap(text string, width int) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		line := ""
		for word := range strings.FieldsSeq(text) {
			if line != "" && len(line)+1+len(word) > width {
				if !yield(line) {
					return
				}
				line = ""
			}
			if line != "" {
				line += " "
			}
			line += word
		}
		yield(line)
	}
}
