// Package terminal runs kvctl in a real pseudo-terminal, as a person does, and
// looks at what comes on the screen and at what is left of the terminal.
package terminal
