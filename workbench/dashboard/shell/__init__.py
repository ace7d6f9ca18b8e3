"""What the pages share: the frame around them, forms, figures, links, jobs."""
