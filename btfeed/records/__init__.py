"""Records: maps a post to records, one flat JSON object for each occurrence.

Read schema (the field table), then plain_mapper from top to bottom: it is the specification. mapper does the same natively.

Where is it decided ...
  what a field is called in a record, and how it is written?      schema
  what event.id is?                                               btfeed/posts/post.py
  how times, durations and invalid values are written?            encoding
  what measures and dimensions are called?                        names
  what all records of a business transaction share: event.type,
    event.provider, attributes, the server?                       transaction
  which fields are missing or unexpected?                         validation
  what happens to such occurrences, which others become dead
    letters (a startTime outside the calendar), what is counted?  plain_mapper
  what is hashed and masked, and how?                             privacy
  which attributes may be added to records?                       attributes
  which settings [record] has, and which values and
    placeholders are accepted?                                    settings ([validation]: validation)
  what mapping a post gives to delivery?                          result
  whether the native or the plain mapper runs?                    mapper
  how `btfeed inspect` shows a post?                              describe
"""
