package config

import (
	"fmt"
	"io"
	"strings"
)

// Verb is a command of the daemon's program, for its manual.
type Verb struct {
	Name string // "snapshot restore"
	Does string // in a line
}

// DaemonPage writes kvd(8).
func DaemonPage(w io.Writer, verbs []Verb) error {
	p := &page{}
	p.head("KVD", 8)
	p.section("NAME", `kvd \- key\-value store with the etcd v3 API`)
	p.section("SYNOPSIS", ".nf\n\\fBkvd\\fR [\\fIflags\\fR]\n\\fBkvd\\fR \\fIcommand\\fR ...\n.fi")
	p.section("DESCRIPTION", troff(`kvd runs one member of a key-value store that speaks the etcd v3 API: etcd's clients, files, flags
and other members work with it. As a rule systemd runs it, as kvd.service, and its options are in `+DefaultFile+`. Each option
is also a flag, and an environment variable: its name in capitals behind KVD_, with _ for -. A flag beats a variable, a variable
beats the file.`))
	p.paragraph(troff(`A first start founds a cluster, or joins one, as the options say; so write the file first. "kvd config check"
tells what is wrong with it. kvctl(1) talks to the cluster.`))
	p.section("COMMANDS", troff("Without a command kvd is the daemon. The others open its configuration and its files; \"kvd COMMAND --help\" has their options."))
	for _, v := range verbs {
		p.item("kvd "+v.Name, v.Does)
	}
	p.section("SIGNALS", "")
	p.item("SIGTERM, SIGINT", "Hand leadership over, end calls and streams, write everything, end with status 0. A second one ends kvd at once, which loses nothing either.")
	p.item("SIGHUP", "Read the configuration again and take over what is marked as reloadable in kvd.toml(5). A configuration with faults changes nothing.")
	p.section("EXIT STATUS", "")
	p.item("0", "Stopped as told.")
	p.item("1", "It could not start, or cannot go on: the last record of the log says why and what to do.")
	p.item("65", "The member's data must be replaced, by \"kvd member rejoin\". systemd does not try again.")
	p.item(fmt.Sprint(ExitStatus), "The configuration is at fault. systemd does not try again.")
	p.section("UNITS", "")
	p.item("kvd.service", "A member. Its status line, in \"systemctl status kvd\", says how it is, or what it waits for.")
	p.item("kvd@NAME.service", "Further members on a host: /etc/kvd/NAME.toml, /var/lib/kvd/NAME.")
	p.item("kvd.socket, kvd-peer.socket", "Let systemd open the ports, and keep them open while kvd restarts. Disabled as installed.")
	p.item("kvd-backup.service, kvd-backup.timer", "A verified snapshot into /var/backups/kvd, and the same every day. The oldest ones beyond KVD_BACKUP_KEEP (14) "+
		"are removed; /etc/kvd/backup.env sets it, and the variables of kvctl(1). Disabled as installed.")
	p.item("kvd-backup@NAME.service, kvd-backup@NAME.timer", "The same for an instance: /etc/kvd/NAME.backup.env, /var/backups/kvd/NAME.")
	p.section("FILES", "")
	p.item(DefaultFile, "The configuration; see kvd.toml(5).")
	p.item("/var/lib/kvd", "The data of members.")
	p.item("/var/backups/kvd", "Snapshots.")
	p.item("/etc/kvd/purge-data", "If it is there when a Debian package is purged, the data goes, too.")
	p.item("/usr/share/doc/kvd/docs/operations.md", "How to run it: clusters, backups, failures.")
	p.section("JOURNAL", troff(`Records have the fields MEMBER_ID, CLUSTER_ID, TERM, REVISION and, where it is about another member,
PEER. Those that somebody must act on have a MESSAGE_ID, and "journalctl --catalog -u kvd" explains them.`))
	p.section("OPTIONS", troff("kvd.toml(5) says more about each, and in which form values are written."))
	for _, o := range inSections() {
		p.item("--"+o.name+" "+metavariable(o), o.help+" Default: "+shown(o.standard)+".")
	}
	p.section("SEE ALSO", `\fBkvd.toml\fR(5), \fBkvctl\fR(1), \fBsystemctl\fR(1), \fBjournalctl\fR(1)`)
	return p.to(w)
}

// FilePage writes kvd.toml(5).
func FilePage(w io.Writer) error {
	p := &page{}
	p.head("KVD.TOML", 5)
	p.section("NAME", `kvd.toml \- configuration of kvd`)
	p.section("SYNOPSIS", `\fI`+troff(DefaultFile)+`\fR`)
	p.section("DESCRIPTION", troff(`A file in TOML. The options are flat, without tables; _ may stand for -. Lists may be lists of TOML or
strings with commas. Durations are strings such as "100ms"; where milliseconds or seconds are counted, a bare integer does, too.
Sizes are integers of bytes or strings such as "2GiB".`))
	p.paragraph(troff(`A path of certificates and keys, those of auth-token among them, may be "credential:NAME": the credential that systemd passes by LoadCredential=NAME:...
in the unit.`))
	p.paragraph(troff(`All faults are reported at once, with file, line and column; kvd does not start with any. "kvd config check" does the same
without starting, and "kvd config explain" shows the value of each option and where it comes from. At a terminal they take the
data to be where the packaged units have it, and do not look at credentials.`))
	p.paragraph(troff(`Names, defaults and meanings are etcd's, but for options that are marked as kvd's own. An option that is marked as reloadable is
taken over by "systemctl reload kvd"; the others need a restart.`))
	var at section
	for _, o := range inSections() {
		if o.is(outside) {
			continue
		}
		if o.section != at {
			at = o.section
			p.section(strings.ToUpper(string(at)), "")
		}
		text := o.help + " " + upperFirst(o.want()) + o.remark() + "."
		p.item(o.name+" = "+o.literal(), text)
	}
	p.section("SEE ALSO", `\fBkvd\fR(8), \fBsystemd.exec\fR(5)`)
	return p.to(w)
}

// metavariable stands for the value of a flag.
func metavariable(o *option) string {
	if _, ok := o.bind(new(Config)).(boolean); ok {
		return ""
	}
	return "VALUE"
}

func shown(standard string) string {
	if standard == "" {
		return "none"
	}
	return standard
}

func upperFirst(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// page is a manual page in the making.
type page struct{ b strings.Builder }

// head has no date: the same code gives the same page.
func (p *page) head(title string, section int) {
	fmt.Fprintf(&p.b, ".TH %s %d \"\" kvd\n", title, section)
}

// section begins one, with text that is roff's already.
func (p *page) section(title, text string) {
	fmt.Fprintf(&p.b, ".SH %s\n", quoted(title))
	if text != "" {
		p.b.WriteString(text + "\n")
	}
}

func (p *page) paragraph(text string) { p.b.WriteString(".PP\n" + text + "\n") }

// item is a term and what it means.
func (p *page) item(term, text string) {
	fmt.Fprintf(&p.b, ".TP\n\\fB%s\\fR\n%s\n", troff(strings.TrimSpace(term)), troff(text))
}

func (p *page) to(w io.Writer) error {
	_, err := io.WriteString(w, p.b.String())
	return err
}

func quoted(text string) string { return `"` + troff(text) + `"` }

// troff is text that roff prints as it stands.
func troff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
