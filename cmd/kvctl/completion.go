package main

import (
	"github.com/spf13/cobra"
)

func (p *program) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion [bash|zsh|fish|powershell]",
		Short: "Prints a script that completes kvctl's commands",
		Long: `Prints a script that completes kvctl's commands in a shell.

bash:        source <(kvctl completion bash)
  for good:  kvctl completion bash > /etc/bash_completion.d/kvctl
zsh:         kvctl completion zsh > "${fpath[1]}/_kvctl"
  (needs "autoload -U compinit; compinit" in ~/.zshrc)
fish:        kvctl completion fish | source
  for good:  kvctl completion fish > ~/.config/fish/completions/kvctl.fish
PowerShell:  kvctl completion powershell | Out-String | Invoke-Expression
`,
		GroupID:               groupUtility,
		DisableFlagsInUseLine: true,
		ValidArgs:             []string{"bash", "zsh", "fish", "powershell"},
		Args:                  cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		Run: p.does(func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			generate := map[string]func() error{
				"bash":       func() error { return root.GenBashCompletionV2(p.out, true) },
				"zsh":        func() error { return root.GenZshCompletion(p.out) },
				"fish":       func() error { return root.GenFishCompletion(p.out, true) },
				"powershell": func() error { return root.GenPowerShellCompletionWithDesc(p.out) },
			}
			if err := generate[args[0]](); err != nil {
				return fail(exitIO, err)
			}
			return nil
		}),
	}
}
