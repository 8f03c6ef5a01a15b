package mk

func (p *parser) dump(o *output)          {}
func (r *run) dumpNode(s string, n *node) {}
