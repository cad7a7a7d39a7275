"""What a user can do, one module per verb: values in, a typed result out.

Nothing here prints. What happens meanwhile is told as events (`verbs.events`), which a terminal, a notebook or nobody
shows; what goes wrong is raised from the error tree.
"""
