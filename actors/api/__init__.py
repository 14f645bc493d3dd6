"""What the node can be asked by programs, whatever they speak: one meaning, two dialects.

    faults                    why a call is refused
    objects                   what is answered, as JSON; declared once for the answers and for the documents about them
    reading                   what is given, read as strictly as the reference reads it
    administration, messages, topics    the calls themselves, typed: they ask the actors
    node                      all of them together
    local                     who may ask at all

HTTP (`actors/status`) and JSON-RPC (`actors/rpc`) translate: paths and status codes there, methods and error codes
here. Neither knows a frame. Every call may be used by many threads at once.
"""
