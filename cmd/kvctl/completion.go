package main

import (
	"io"

	"github.com/spf13/cobra"
)

// bashAlone stands in for what the script takes from the package
// bash-completion, where that is not installed. It knows no quotes.
const bashAlone = `
if ! declare -F _get_comp_words_by_ref >/dev/null; then
_get_comp_words_by_ref() {
    local line=${COMP_LINE:0:COMP_POINT}
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    cword=$((${#words[@]} - 1))
    cur=${words[cword]}
    prev=${words[cword > 0 ? cword - 1 : 0]}
}
fi
if ! declare -F __ltrim_colon_completions >/dev/null; then
__ltrim_colon_completions() {
    [[ $1 == *:* && $COMP_WORDBREAKS == *:* ]] || return 0
    local before=${1%"${1##*:}"} i
    for i in "${!COMPREPLY[@]}"; do
        COMPREPLY[i]=${COMPREPLY[i]#"$before"}
    done
}
fi
`

func bashCompletion(root *cobra.Command, out io.Writer) error {
	if err := root.GenBashCompletionV2(out, true); err != nil {
		return err
	}
	_, err := io.WriteString(out, bashAlone)
	return err
}

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
				"bash":       func() error { return bashCompletion(root, p.out) },
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
