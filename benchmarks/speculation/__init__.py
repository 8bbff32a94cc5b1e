"""What tokens tried ahead bring: prompt lookup and a draft model beside none, in one process and served."""
