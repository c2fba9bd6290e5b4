"""Labels of pairs of moments: a vision-language model says which is nearer to a goal; and the audit of its answers."""
