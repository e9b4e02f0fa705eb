// Renders chat templates as Ollama does: Go's text/template over the data that Ollama hands it.
//
//	go build -o render render.go
//	printf '%s\n' '{"template": "...", "messages": [{"role": "user", "content": "Hi"}]}' | ./render
//
// One JSON object a line in, one a line out: {"prompt", "open", "close"} or {"error"}. `open` and `close` are the tags that
// Ollama would take for the model's reasoning: in a `range` over .Messages, the first and last text of the innermost list
// that mentions .Thinking (after thinking.InferTags of Ollama v0.33). Consecutive turns of one role are joined with a
// blank line, as Ollama's template.collate does.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
	"text/template/parse"
)

type message struct {
	Role     string `json:"role"`
	Content  string `json:"content"`
	Thinking string `json:"thinking"`
}

type request struct {
	Template string    `json:"template"`
	Messages []message `json:"messages"`
}

type answer struct {
	Prompt string `json:"prompt"`
	Open   string `json:"open"`
	Close  string `json:"close"`
	Error  string `json:"error,omitempty"`
}

func main() {
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	decoder := json.NewDecoder(lines)
	for decoder.More() {
		var asked request
		if err := decoder.Decode(&asked); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		out.Encode(render(asked))
	}
}

func render(asked request) answer {
	functions := template.FuncMap{"json": func(v any) string { text, _ := json.Marshal(v); return string(text) }}
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(asked.Template)
	if err != nil {
		return answer{Error: err.Error()}
	}
	system, messages := collate(asked.Messages)
	var text strings.Builder
	data := map[string]any{"System": system, "Messages": messages, "Tools": nil, "Response": "", "Think": false, "IsThinkSet": false}
	if err := parsed.Execute(&text, data); err != nil {
		return answer{Error: err.Error()}
	}
	open, closing := tags(parsed.Root)
	return answer{Prompt: text.String(), Open: open, Close: closing}
}

func collate(asked []message) (string, []*message) {
	var system []string
	var joined []*message
	for i := range asked {
		turn := asked[i]
		if turn.Role == "system" {
			system = append(system, turn.Content)
		}
		if n := len(joined); n > 0 && joined[n-1].Role == turn.Role {
			joined[n-1].Content += "\n\n" + turn.Content
		} else {
			joined = append(joined, &turn)
		}
	}
	return strings.Join(system, "\n\n"), joined
}

// tags walks with the innermost range and list at hand; the last mention of .Thinking wins.
func tags(root *parse.ListNode) (open, closing string) {
	var walk func(node parse.Node, list *parse.ListNode, overMessages bool)
	branch := func(b *parse.BranchNode, list *parse.ListNode, overMessages bool) {
		walk(b.Pipe, list, overMessages)
		walk(b.List, list, overMessages)
		if b.ElseList != nil {
			walk(b.ElseList, list, overMessages)
		}
	}
	walk = func(node parse.Node, list *parse.ListNode, overMessages bool) {
		switch n := node.(type) {
		case *parse.ListNode:
			for _, child := range n.Nodes {
				walk(child, n, overMessages)
			}
		case *parse.RangeNode:
			branch(&n.BranchNode, list, strings.Contains(n.Pipe.String(), ".Messages"))
		case *parse.IfNode:
			branch(&n.BranchNode, list, overMessages)
		case *parse.WithNode:
			branch(&n.BranchNode, list, overMessages)
		case *parse.ActionNode:
			walk(n.Pipe, list, overMessages)
		case *parse.PipeNode:
			for _, command := range n.Cmds {
				for _, argument := range command.Args {
					walk(argument, list, overMessages)
				}
			}
		case *parse.FieldNode:
			if n.Ident[0] == "Thinking" && overMessages {
				if text, ok := list.Nodes[0].(*parse.TextNode); ok {
					open = strings.TrimSpace(text.String())
				}
				if text, ok := list.Nodes[len(list.Nodes)-1].(*parse.TextNode); ok {
					closing = strings.TrimSpace(text.String())
				}
			}
		}
	}
	walk(root, root, false)
	return open, closing
}
