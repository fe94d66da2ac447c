package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"kvd/internal/config"
)

type importFlags struct {
	environment     bool
	environmentFile string
	output          string
	force           bool
}

func (t *tool) importConfigCommand() *cobra.Command {
	f := &importFlags{}
	cmd := &cobra.Command{
		Use:   "import-config [<etcd.conf.yml>] [options]",
		Short: "Makes kvd's configuration file of etcd's",
		Long: `Makes a kvd.toml of a configuration of etcd: of its own kind of file, which is YAML
or JSON, of the ETCD_… variables in a file such as /etc/default/etcd, or of those in
the environment. Every line says what the option does and where it was set; what is
not taken over, and what has no effect, is listed at the top with the reason.

The result is checked as "kvd config check" does; if kvd would not start with it,
the status is 78 and the reasons are told on the error output, too. Certificates
are not looked for: the paths are taken over as they are.`,
		Example: `  kvd import-config /etc/etcd/etcd.conf.yml -o /etc/kvd/kvd.toml
  kvd import-config --environment-file /etc/default/etcd`,
		Args: cobra.MaximumNArgs(1),
		Run:  t.does(func(_ *cobra.Command, args []string) error { return t.importConfig(f, args) }),
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.environment, "environment", false, "Read the ETCD_… variables of this process")
	flags.StringVar(&f.environmentFile, "environment-file", "", "Read ETCD_… variables from a file of NAME=value lines")
	flags.StringVarP(&f.output, "output", "o", "", "Write to this file instead of the standard output")
	flags.BoolVar(&f.force, "force", false, "Replace the file if it is there")
	return cmd
}

func (t *tool) importConfig(f *importFlags, args []string) error {
	sources := len(args)
	for _, given := range []bool{f.environment, f.environmentFile != ""} {
		if given {
			sources++
		}
	}
	if sources != 1 {
		return failf(exitBadArgs, "import-config requires one source: a file of etcd's, --environment-file or --environment")
	}
	made, err := f.read(args)
	if err != nil {
		return err
	}
	if f.output == "" {
		err = t.write(made.Text)
	} else {
		err = f.put(made)
	}
	if err != nil {
		return err
	}
	return t.judge(f, made)
}

// read makes the file.
func (f *importFlags) read(args []string) (*config.Imported, error) {
	switch {
	case f.environment:
		return config.ImportEnvironment("the environment", os.Environ()), nil
	case f.environmentFile != "":
		data, err := os.ReadFile(f.environmentFile)
		if err != nil {
			return nil, err
		}
		return config.ImportEnvironment(f.environmentFile, config.Assignments(data)), nil
	}
	data, err := os.ReadFile(args[0])
	if err != nil {
		return nil, err
	}
	return config.ImportYAML(args[0], data)
}

// put writes the file beside and gives it its name when it is whole.
func (f *importFlags) put(made *config.Imported) (err error) {
	if _, err := os.Lstat(f.output); err == nil && !f.force {
		return fmt.Errorf("%s is there already; use --force to replace it", f.output)
	}
	temp, err := os.CreateTemp(filepath.Dir(f.output), filepath.Base(f.output)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp.Name()))
		}
	}()
	mode := os.FileMode(0o644)
	if made.Secret {
		mode = 0o600
	}
	_, err = temp.WriteString(made.Text)
	if err = errors.Join(err, temp.Chmod(mode), temp.Sync(), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), f.output)
}

// judge tells what kvd has against the file, and where it is.
func (t *tool) judge(f *importFlags, made *config.Imported) error {
	if f.output != "" {
		fmt.Fprintf(t.errs, "Wrote %s; read it through.\n", f.output)
	}
	for _, text := range made.Lost {
		fmt.Fprintln(t.errs, "not taken over:", text)
	}
	if made.Secret {
		fmt.Fprintln(t.errs, "It holds a password: let nobody read it but root and the user that kvd runs as.")
	}
	if len(made.Faults) == 0 {
		return nil
	}
	var texts []string
	for _, fault := range made.Faults {
		texts = append(texts, fault.Error())
	}
	return failf(config.ExitStatus, "kvd would not start with it:\n%s", strings.Join(texts, "\n"))
}
